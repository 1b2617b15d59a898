//! Writing an answer as bytes and ranges.

use std::ops::Range;

use super::answer::{Answer, Content, Resource};
use crate::export::{Batch, Export, MixedImagesError};
use crate::http::wire::date::HttpDate;
use crate::http::wire::head::Persistence;
use crate::http::wire::range::ContentRange;
use crate::http::wire::{Method, ResponseHead, StatusCode};

/// Seconds after which a client without a place should try again.
const RETRY_AFTER: u32 = 5;

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        match &self.content {
            Content::Refusal(refusal) => refusal.status,
            Content::Redirect { .. } => StatusCode::MOVED_PERMANENTLY,
            Content::Done(_) => StatusCode::OK,
            Content::NotModified(_) => StatusCode::NOT_MODIFIED,
            Content::NotSatisfiable(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Content::Whole(_) => StatusCode::OK,
            Content::Part(..) | Content::Parts(..) => StatusCode::PARTIAL_CONTENT,
        }
    }

    /// Queues the head, and the content unless the request was HEAD.
    ///
    /// # Errors
    /// [`MixedImagesError`] if ranges of another image are queued: the caller takes back what was
    /// pushed.
    pub(crate) fn queue(
        self,
        connection: Persistence,
        now: HttpDate,
        out: &mut Batch,
    ) -> Result<(), MixedImagesError> {
        let text = self.text();
        out.write_bytes(|arena| {
            let mut head = ResponseHead::new(self.status(), arena);
            self.describe(&text, now, &mut head);
            head.end(connection, now);
        });
        // RFC 9110 §9.3.2: the response to HEAD has the fields of GET and no content.
        if self.method != Method::Head {
            out.push_bytes(text.as_bytes());
            self.queue_content(out)?;
        }
        Ok(())
    }

    /// Returns the content of an answer without a file, for a person to read.
    fn text(&self) -> String {
        let status = self.status();
        match &self.content {
            Content::Refusal(refusal) => format!("{status}: {}\n", refusal.reason),
            Content::Redirect { location } => format!("{status}: {location}\n"),
            Content::Done(text) => format!("{text}\n"),
            Content::NotSatisfiable(_) => format!("{status}: the file ends before the range\n"),
            _ => String::new(),
        }
    }

    fn describe(&self, text: &str, now: HttpDate, head: &mut ResponseHead<'_>) {
        match &self.content {
            Content::Refusal(_)
            | Content::Redirect { .. }
            | Content::Done(_)
            | Content::NotSatisfiable(_) => {
                head.field("Content-Length", text.len());
                head.field("Content-Type", "text/plain; charset=utf-8");
            }
            // RFC 9110 §15.4.5: no content, and only the fields that matter to a cache.
            Content::NotModified(resource) => resource.describe(now, head),
            Content::Whole(resource) => {
                head.field("Content-Length", resource.export.len());
                head.field("Content-Type", resource.media_type);
                resource.describe(now, head);
            }
            Content::Part(resource, part) => {
                head.field("Content-Length", part.end - part.start);
                head.field("Content-Type", resource.media_type);
                head.field("Content-Range", content_range(resource, Some(part)));
                resource.describe(now, head);
            }
            Content::Parts(resource, parts) => {
                head.field("Content-Length", parts.len());
                head.field("Content-Type", parts.media_type());
                resource.describe(now, head);
            }
        }
        match &self.content {
            // RFC 9110 §15.5.6: the response has to list the allowed methods.
            Content::Refusal(refusal) if refusal.status == StatusCode::METHOD_NOT_ALLOWED => {
                head.field("Allow", refusal.allow);
            }
            // RFC 9110 §15.6.4: the field suggests when to try again.
            Content::Refusal(refusal) if refusal.status == StatusCode::SERVICE_UNAVAILABLE => {
                head.field("Retry-After", RETRY_AFTER);
            }
            Content::Redirect { location } => head.field("Location", location),
            // RFC 9110 §15.5.17: Content-Range tells the length of the file.
            Content::NotSatisfiable(resource) => head.field("Content-Range", content_range(resource, None)),
            _ => {}
        }
    }

    fn queue_content(self, out: &mut Batch) -> Result<(), MixedImagesError> {
        match self.content {
            Content::Whole(Resource { export, .. }) => queue(&export, &(0..export.len()), out),
            Content::Part(Resource { export, .. }, part) => queue(&export, &part, out),
            Content::Parts(Resource { export, .. }, parts) => {
                for (head, part) in &parts.parts {
                    out.push_bytes(head.as_bytes());
                    queue(&export, part, out)?;
                }
                out.push_bytes(parts.end.as_bytes());
                Ok(())
            }
            Content::Refusal(_)
            | Content::Redirect { .. }
            | Content::Done(_)
            | Content::NotModified(_)
            | Content::NotSatisfiable(_) => Ok(()),
        }
    }
}

impl Resource {
    fn describe(&self, now: HttpDate, head: &mut ResponseHead<'_>) {
        head.field("ETag", self.validators.tag);
        if let Some(modified) = self.validators.modified {
            // RFC 9110 §8.8.2.1: never later than Date, even if the image was made with a wrong
            // clock.
            head.field("Last-Modified", modified.min(now));
        }
        head.field("Accept-Ranges", "bytes");
    }
}

fn content_range(resource: &Resource, part: Option<&Range<u64>>) -> ContentRange {
    ContentRange { part: part.cloned(), of: resource.export.len() }
}

/// Queues a part, which lies inside the file.
fn queue(export: &Export, part: &Range<u64>, out: &mut Batch) -> Result<(), MixedImagesError> {
    let pieces = export.range(part.start, part.end - part.start);
    pieces.into_iter().flatten().try_for_each(|piece| out.push_piece(piece))
}
