//! Heads, targets, dates, tags and ranges, with heads as real clients sent them.

use super::condition::{Comparison, EntityTag};
use super::date::HttpDate;
use super::head::{Persistence, ResponseHead};
use super::range::{RANGES_MAX, RequestedRanges, wanted};
use super::target::{self, Segment};
use super::*;

fn parse(head: &str) -> Result<Option<(HttpRequest<'_>, usize)>, HttpParseError> {
    HttpRequest::parse(head.as_bytes())
}

fn parsed(head: &str) -> HttpRequest<'_> {
    let (request, len) = parse(head).unwrap().unwrap();
    assert_eq!(len, head.len());
    request
}

#[test]
fn heads_of_real_clients() {
    let lpxelinux = parsed(include_str!("../../../tests/data/http/lpxelinux.request"));
    assert_eq!(lpxelinux.target, "/arch/boot/x86_64/vmlinuz-linux");
    assert_eq!((lpxelinux.method, lpxelinux.version), (Method::Get, HttpVersion::Http10));
    assert_eq!(lpxelinux.field("user-agent"), Some(&b"Syslinux/6.04"[..]));
    assert!(!lpxelinux.wants_to_stay());

    let ipxe = parsed(include_str!("../../../tests/data/http/ipxe.request"));
    assert_eq!((ipxe.target, ipxe.version), ("/arch/boot/x86_64/vmlinuz-linux", HttpVersion::Http11));
    assert!(ipxe.wants_to_stay());

    let hook = parsed(include_str!("../../../tests/data/http/hook-probe.request"));
    assert_eq!(hook.field("Range"), Some(&b"bytes=0-0"[..]));
    assert!(hook.wants_to_stay());
}

#[test]
fn a_head_is_taken_when_it_is_complete() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 0..head.len() {
        assert!(HttpRequest::parse(&head.as_bytes()[..end]).unwrap().is_none(), "{end}");
    }
    let (_, len) = HttpRequest::parse([head, "GET /2"].concat().as_bytes()).unwrap().unwrap();
    assert_eq!(len, head.len());
    // RFC 9112 §2.2: empty lines before, and a line feed alone as the end of a line.
    assert_eq!(parsed("\r\n\r\nGET / HTTP/1.1\nHost: a\n\n").target, "/");
}

#[test]
fn what_is_no_request_is_told_why() {
    let refused = |head: &str| parse(head).unwrap_err();
    let field = |field: &str| refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"));
    assert_eq!(refused("GET / HTTP/2.0\r\n\r\n"), HttpParseError::Version);
    assert_eq!(refused("GET / HTTP/1.2\r\n\r\n"), HttpParseError::Version);
    let syntax = |error| HttpParseError::Syntax(error);
    assert_eq!(refused("GET / FTP/1.1\r\n\r\n"), syntax(httparse::Error::Version));
    assert_eq!(refused("GET /\r\n\r\n"), syntax(httparse::Error::Token));
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n"), syntax(httparse::Error::HeaderName));
    assert_eq!(field("A : b"), syntax(httparse::Error::HeaderName), "RFC 9112 §5.1");
    assert_eq!(field("A: b\r\n c"), syntax(httparse::Error::HeaderName), "RFC 9112 §5.2");
    assert_eq!(field("A: \0"), syntax(httparse::Error::HeaderValue));
    assert_eq!(field(&"A: b\r\n".repeat(FIELDS_MAX)), HttpParseError::ManyFields);
    assert_eq!(field(&format!("A: {}", "b".repeat(HEAD_MAX))), HttpParseError::LongHead);
    assert_eq!(refused(&format!("GET /{}", "a".repeat(HEAD_MAX))), HttpParseError::LongTarget);
    for host in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: \u{e4}\r\n"] {
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{host}\r\n")), HttpParseError::Host, "{host}");
    }
    assert!(parse("GET / HTTP/1.0\r\n\r\n").is_ok());
    assert!(parse("GET / HTTP/1.1\r\nHost: [fe80::1]:80\r\n\r\n").is_ok());
}

#[test]
fn the_length_of_content_is_beyond_doubt() {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    assert_eq!(parsed(&head("Content-Length: 17")).content, 17);
    assert_eq!(parsed(&head("A: b")).content, 0);
    for doubtful in [
        "Content-Length: +17",
        "Content-Length: 0x10",
        "Content-Length: ",
        "Content-Length: 1, 1",
        "Content-Length: 18446744073709551616",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(parse(&head(doubtful)).unwrap_err(), HttpParseError::Length, "{doubtful}");
    }
    assert_eq!(parse(&head("Transfer-Encoding: Chunked")).unwrap_err(), HttpParseError::Chunked);
    assert_eq!(parse(&head("Transfer-Encoding: gzip, chunked")).unwrap_err(), HttpParseError::Coding);
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse(old).unwrap_err(), HttpParseError::Length, "RFC 9112 §6.1");
}

#[test]
fn connections_stay_as_the_version_says_or_the_client() {
    let stays = |version: &str, connection: &str| {
        parsed(&format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n"))
            .wants_to_stay()
    };
    assert!(stays("1.1", "TE") && stays("1.0", "TE , Keep-Alive"));
    assert!(!stays("1.0", "TE") && !stays("1.1", "keep-alive, Close"));
}

#[test]
fn targets_are_decoded_once() {
    let path = |target: &str| target::path(target).map(|path| String::from_utf8_lossy(&path).into_owned());
    for (target, wanted) in [
        ("/arch/boot", "/arch/boot"),
        ("/a%20b%2Fc%2f", "/a b/c/"),
        ("/%2541", "/%41"),
        ("/a+b", "/a+b"),
        ("/a?b=/../%zz", "/a"),
        ("/%3F%23", "/?#"),
        ("http://10.0.0.1:80/arch/x", "/arch/x"),
        ("HTTPS://host?query", "/"),
        ("http://host", "/"),
        ("//host/x", "//host/x"),
    ] {
        assert_eq!(path(target).as_deref(), Ok(wanted), "{target}");
    }
    for bad in ["*", "host:80", "arch/boot", "ftp://host/x", "/a#b", "/%", "/%4", "/%zz", "/%+4"] {
        assert_eq!(path(bad), Err(target::TargetError), "{bad}");
    }
}

#[test]
fn segments_mean_nothing_to_anybody() {
    let name = b"a b/c?d#e%f\"<g>&'h:\\\r\n\0\xff~";
    let segment = Segment(name).to_string();
    assert_eq!(segment, "a%20b%2Fc%3Fd%23e%25f%22%3Cg%3E%26%27h%3A%5C%0D%0A%00%FF~");
    assert_eq!(target::path(&format!("/{segment}")).unwrap(), [b"/", &name[..]].concat());
}

#[test]
fn dates_in_all_three_forms() {
    let now = HttpDate::new("2026-11-23T06:07:23.9Z".parse().unwrap());
    assert_eq!(now.to_string(), "Mon, 23 Nov 2026 06:07:23 GMT");
    let date = HttpDate::new("1994-11-06T08:49:37Z".parse().unwrap());
    for text in
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
    {
        assert_eq!(HttpDate::parse(text.as_bytes(), now), Some(date), "{text}");
    }
    let short = |year: &str| HttpDate::parse(format!("Sunday, 06-Nov-{year} 08:49:37 GMT").as_bytes(), now);
    assert!(short("75").unwrap().to_string().contains("2075"), "less than 50 years ahead");
    assert!(short("77").unwrap().to_string().contains("1977"));
    for bad in ["", "0", "yesterday", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nov 1994 25:49:37 GMT"] {
        assert_eq!(HttpDate::parse(bad.as_bytes(), now), None, "{bad}");
    }
    assert_eq!(HttpDate::new(jiff::Timestamp::MIN).to_string(), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert!(HttpDate::new(jiff::Timestamp::MAX).to_string().contains(" 9999 "));
}

#[test]
fn tags_are_compared_as_the_condition_wants() {
    let tag = EntityTag(0xabc);
    assert_eq!(tag.to_string(), "\"abc\"");
    let is_among = |list: &str, comparison| tag.is_among([list.as_bytes()].into_iter(), comparison);
    for list in ["*", "\"abc\"", "\"x\", \"abc\"", ",\"a,b\" ,\t\"abc\",", "\"\",\"abc\""] {
        assert!(is_among(list, Comparison::Strong), "{list}");
        assert!(is_among(list, Comparison::Weak), "{list}");
    }
    assert!(is_among("\"x\",W/\"abc\"", Comparison::Weak));
    for list in ["", "abc", "\"ab\"", "\"abc", "abc\"", "\"x\" junk \"abc\"", "w/\"abc\"", "W/\"abc\""] {
        assert!(!is_among(list, Comparison::Strong), "{list}");
    }
    let mut lines = [&b"\"x\""[..], b"\"abc\""].into_iter();
    assert!(tag.is_among(&mut lines, Comparison::Strong), "the lines of a field are one list");
}

#[test]
fn ranges_are_what_the_client_means() {
    let parts =
        |parts: &[(u64, u64)]| RequestedRanges::Parts(parts.iter().map(|&(start, end)| start..end).collect());
    for (field, expected) in [
        ("bytes=0-0", parts(&[(0, 1)])),
        ("Bytes=0-99", parts(&[(0, 100)])),
        ("bytes=10-", parts(&[(10, 100)])),
        ("bytes=10-1000", parts(&[(10, 100)])),
        ("bytes=10-99999999999999999999999", parts(&[(10, 100)])),
        ("bytes=-1", parts(&[(99, 100)])),
        ("bytes=-1000", parts(&[(0, 100)])),
        ("bytes=0-0,-1", parts(&[(0, 1), (99, 100)])),
        ("bytes= 5-6\t, ,2-3,", parts(&[(5, 7), (2, 4)])),
        ("bytes=0-1,200-,4-5", parts(&[(0, 2), (4, 6)])),
        ("bytes=50-59,0-9,10-19,55-60", parts(&[(50, 61), (0, 20)])),
        ("bytes=0-1,4-5,8-9,1-8", parts(&[(0, 10)])),
        ("bytes=100-", RequestedRanges::Nothing),
        ("bytes=-0", RequestedRanges::Nothing),
        ("bytes=100-,99999999999999999999999-", RequestedRanges::Nothing),
    ] {
        assert_eq!(wanted(field.as_bytes(), 100), expected, "{field}");
    }
}

#[test]
fn ranges_that_make_no_sense_are_ignored() {
    let many = format!("bytes={}", "0-0,".repeat(RANGES_MAX + 1));
    for field in [
        "",
        "bytes",
        "bytes=",
        "bytes=, ,",
        "bytes=-",
        "bytes=5-4",
        "bytes=0-0,5-4",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes=1 -2",
        "bytes 0-0",
        "bytes =0-0",
        "seconds=0-1",
        // iPXE's sanboot of an image larger than 2 GiB.
        "bytes=-1540874240--1540857857",
        "bytes=u-u",
        &many,
    ] {
        assert_eq!(wanted(field.as_bytes(), 100), RequestedRanges::Whole, "{field}");
    }
    assert_eq!(wanted(b"bytes=0-", 0), RequestedRanges::Whole, "an empty file has no parts");
}

#[test]
fn a_head_never_ends_with_its_length() {
    let now = HttpDate::new("2026-11-23T06:07:23Z".parse().unwrap());
    let head = |connection| {
        let mut out = Vec::new();
        let mut head = ResponseHead::new(StatusCode::OK, &mut out);
        head.field("Content-Length", 5);
        head.end(connection, now);
        String::from_utf8(out).unwrap()
    };
    let date = "Date: Mon, 23 Nov 2026 06:07:23 GMT\r\n\r\n";
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n";
    assert_eq!(head(Persistence::Stays), format!("{start}{date}"));
    assert_eq!(head(Persistence::StaysAsAsked), format!("{start}Connection: keep-alive\r\n{date}"));
    assert_eq!(head(Persistence::Closes), format!("{start}Connection: close\r\n{date}"));
}
