//! NBD client: fixed newstyle handshake with `NBD_OPT_GO`, simple replies, one request at a time.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::connection::ClientConnection;
use super::original::{CheckTally, Expected, Original, VerifyError};
use super::servers::CheckedServers;
use crate::codec::Reader;
use crate::image::{Extent, NodeId, NodeKind};
use crate::images::set::ARCHISO;
use crate::nbd::wire::{
    Cmd, FLAG_FIXED_NEWSTYLE, FLAG_HAS_FLAGS, FLAG_NO_ZEROES, FLAG_READ_ONLY, GREETING, Info, OPTS_MAGIC,
    Opt, REP_MAGIC, REQUEST_MAGIC, Rep, SIMPLE_REPLY_MAGIC,
};

/// Bytes per request; servers take 32 MiB (NBD protocol, "Size constraints").
const REQUEST: u64 = 1 << 20;

/// Longest option reply that is accepted.
const REPLY_MAX: u32 = 8 << 10;

/// Reads the whole image, its root images first, and one file as an export of its own.
///
/// # Errors
/// [`VerifyError`] of the first fault that is found.
pub(super) async fn check(
    servers: &CheckedServers,
    original: &Original,
    tally: &mut CheckTally,
) -> Result<(), VerifyError> {
    let mut client = NbdClient::attach(servers.nbd, ARCHISO.as_bytes(), original).await?;
    let whole = original.image.source.len();
    original.stretch(0, whole).has_size(client.size)?;
    let mut read = Vec::new();
    // A checksum is computed in the order of the file, so root images come before the rest.
    for node in original.root_images() {
        let mut expected = original.file(node);
        for &extent in extents(original, node) {
            client.read(extent, &mut expected).await?;
            read.push(extent);
        }
        *tally += expected.finish()?;
    }
    for rest in gaps(read, whole) {
        let mut expected = original.stretch(rest.offset, rest.len);
        client.read(rest, &mut expected).await?;
        *tally += expected.finish()?;
    }
    client.disconnect().await?;
    // Any file is an export of its own, `NAME:/path`.
    if let Some(node) = largest_boot_file(original) {
        *tally += file_export(servers.nbd, node, original).await?;
    }
    Ok(())
}

/// Returns the number of bytes that [`check`] reads.
pub(super) fn work(original: &Original) -> u64 {
    let file = largest_boot_file(original).map_or(0, |node| original.image.index.node(node).size());
    original.image.source.len() + file
}

fn largest_boot_file(original: &Original) -> Option<NodeId> {
    original.boot_files().max_by_key(|&node| original.image.index.node(node).size())
}

async fn file_export(
    address: SocketAddr,
    node: NodeId,
    original: &Original,
) -> Result<CheckTally, VerifyError> {
    let name = [ARCHISO.as_bytes(), b":", &original.image.index.path(node)].concat();
    let mut client = NbdClient::attach(address, &name, original).await?;
    let mut expected = original.file(node);
    expected.has_size(client.size)?;
    client.read(Extent { offset: 0, len: client.size }, &mut expected).await?;
    client.disconnect().await?;
    expected.finish()
}

fn extents(original: &Original, node: NodeId) -> &[Extent] {
    match &original.image.index.node(node).kind {
        NodeKind::File { extents } => extents,
        // Root images are files, so nothing else comes here.
        _ => &[],
    }
}

/// Returns the parts of `0..end` that are not in `read`.
fn gaps(mut read: Vec<Extent>, end: u64) -> Vec<Extent> {
    read.sort_by_key(|extent| extent.offset);
    read.push(Extent { offset: end, len: 0 });
    let mut at = 0;
    let mut gaps = Vec::new();
    for extent in read {
        // Extents of two names of one file overlap.
        gaps.push(Extent { offset: at, len: extent.offset.saturating_sub(at) });
        at = at.max(extent.end());
    }
    gaps.retain(|gap| gap.len > 0);
    gaps
}

/// A client in the transmission phase of an export.
struct NbdClient {
    connection: ClientConnection,
    /// Bytes of the export.
    size: u64,
    cookie: u64,
}

impl NbdClient {
    async fn attach(address: SocketAddr, export: &[u8], original: &Original) -> Result<Self, VerifyError> {
        let mut connection = ClientConnection::open(address, original.patience).await?;
        // NBD protocol, "Fixed newstyle negotiation": the server speaks first.
        if connection.array().await? != GREETING {
            return Err(VerifyError::protocol("the greeting is not of the fixed newstyle handshake"));
        }
        connection.send(&go(export)).await?;
        let size = await_export(&mut connection).await?;
        Ok(Self { connection, size, cookie: 0 })
    }

    /// Reads an extent of the export.
    async fn read(&mut self, extent: Extent, expected: &mut Expected<'_>) -> Result<(), VerifyError> {
        let mut offset = extent.offset;
        while offset < extent.end() {
            let len = REQUEST.min(extent.end() - offset);
            self.request(Cmd::READ, offset, len as u32).await?;
            self.reply().await?;
            self.connection.payload(len, expected).await?;
            offset += len;
        }
        Ok(())
    }

    async fn disconnect(&mut self) -> Result<(), VerifyError> {
        // NBD protocol, `NBD_CMD_DISC`: there is no reply.
        self.request(Cmd::DISC, 0, 0).await
    }

    async fn request(&mut self, command: Cmd, offset: u64, len: u32) -> Result<(), VerifyError> {
        self.cookie += 1;
        let mut request = BytesMut::new();
        request.put_u32(REQUEST_MAGIC);
        request.put_u16(0); // command flags
        request.put_u16(command.0);
        request.put_u64(self.cookie);
        request.put_u64(offset);
        request.put_u32(len);
        self.connection.send(&request).await
    }

    /// Reads the header of a simple reply to the last request.
    async fn reply(&mut self) -> Result<(), VerifyError> {
        let header: [u8; 16] = self.connection.array().await?;
        let mut header = Reader::new(&header);
        // NBD protocol, "Simple reply message": the only form while structured replies are not
        // negotiated. Linux gives its device up over a wrong magic or an unknown cookie.
        let (magic, error, cookie) = (header.u32_be()?, header.u32_be()?, header.u64_be()?);
        if magic != SIMPLE_REPLY_MAGIC || cookie != self.cookie {
            return Err(VerifyError::protocol("the reply does not belong to the request"));
        }
        // Linux turns any error into EIO, and a machine without its root file system has no way
        // back.
        if error != 0 {
            return Err(VerifyError::protocol(format!("a read failed with error {error}")));
        }
        Ok(())
    }
}

/// Encodes the client flags and `NBD_OPT_GO` for an export.
fn go(export: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    // nbd-client sends both flags where the server offers them.
    out.put_u32(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    out.put_u64(OPTS_MAGIC);
    out.put_u32(Opt::GO.0);
    out.put_u32(4 + export.len() as u32 + 2);
    out.put_u32(export.len() as u32);
    out.put_slice(export);
    // NBD protocol, `NBD_OPT_GO`: no information requests, as in nbd-client; NBD_INFO_EXPORT comes
    // anyway.
    out.put_u16(0);
    out
}

/// Reads the replies to [`go`] and returns the size of the export.
async fn await_export(connection: &mut ClientConnection) -> Result<u64, VerifyError> {
    let mut size = None;
    loop {
        let header: [u8; 20] = connection.array().await?;
        let mut header = Reader::new(&header);
        let (magic, option) = (header.u64_be()?, header.u32_be()?);
        let (reply, len) = (Rep(header.u32_be()?), header.u32_be()?);
        if magic != REP_MAGIC || option != Opt::GO.0 || len > REPLY_MAX {
            return Err(VerifyError::protocol("the reply does not belong to NBD_OPT_GO"));
        }
        let data = connection.bytes(len as usize).await?;
        match reply {
            Rep::INFO => size = export_info(Reader::new(&data))?.or(size),
            // NBD protocol, `NBD_OPT_GO`: at least one NBD_INFO_EXPORT comes before it.
            Rep::ACK => {
                return size
                    .ok_or_else(|| VerifyError::protocol("NBD_OPT_GO is answered without NBD_INFO_EXPORT"));
            }
            // nbd-client prints the text of an error on the console.
            refused => {
                let text = String::from_utf8_lossy(&data).escape_debug().to_string();
                return Err(VerifyError::protocol(format!("the export is refused with {refused}: {text}")));
            }
        }
    }
}

/// Returns the size in `NBD_INFO_EXPORT`; `None` for any other information.
fn export_info(mut data: Reader<'_>) -> Result<Option<u64>, VerifyError> {
    // "The client MUST ignore information replies it does not understand."
    if Info(data.u16_be()?) != Info::EXPORT {
        return Ok(None);
    }
    let (size, flags) = (data.u64_be()?, data.u16_be()?);
    // Linux makes the device read-only by this flag.
    if flags & (FLAG_HAS_FLAGS | FLAG_READ_ONLY) != FLAG_HAS_FLAGS | FLAG_READ_ONLY || !data.is_empty() {
        return Err(VerifyError::protocol("NBD_INFO_EXPORT lacks the read-only flag"));
    }
    Ok(Some(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_complement_the_ranges_read() {
        let extent = |offset, len| Extent { offset, len };
        assert_eq!(gaps(vec![], 10), [extent(0, 10)]);
        assert_eq!(gaps(vec![extent(6, 2), extent(0, 3), extent(2, 2)], 10), [extent(4, 2), extent(8, 2)]);
        assert_eq!(gaps(vec![extent(0, 10), extent(3, 4)], 10), []);
    }
}
