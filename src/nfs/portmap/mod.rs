//! Portmapper version 2 and rpcbind versions 3 and 4 (RFC 1833): at which port a machine finds NFS and MOUNT.
//!
//! archiso's nfsmount asks here before anything else, and cannot be told to do without. What is registered is fixed:
//! NFS and MOUNT, version 3 over TCP, at one port, and this program itself. [`registration`] is the other side, for
//! hosts whose own rpcbind has port 111.

pub(crate) mod registration;

use std::net::SocketAddr;

pub(crate) use super::mount::PROGRAM as MOUNT;
use super::rpc::{self, Call, CallError, NotACallError, RecordError, RpcMessage};
pub(crate) use super::wire::PROGRAM as NFS;
use super::xdr::{self, Emitter};
use super::{mount, wire};

/// The port that clients ask (RFC 1833 §1).
pub(crate) const PORT: u16 = 111;

/// Number of this program (RFC 1833 §3).
pub(crate) const PORTMAP: u32 = 100_000;

/// The version of NFS and of MOUNT that is served.
const SERVED: u32 = wire::VERSION;
const _: () = assert!(SERVED == mount::VERSION);

/// Versions of this program: the portmapper of old, and rpcbind twice.
const PORTMAPPER: u32 = 2;
const RPCBIND_3: u32 = 3;
const RPCBIND_4: u32 = 4;

/// Procedures. Up to 5 they have the same numbers in all versions.
const NULL: u32 = 0;
const SET: u32 = 1;
const UNSET: u32 = 2;
const GETPORT: u32 = 3;
const DUMP: u32 = 4;
const CALLIT: u32 = 5;
/// Since rpcbind version 4.
const GETVERSADDR: u32 = 9;

/// Longest string of `struct rpcb`, in bytes: an address is the longest, and an IPv6 one has 47.
const STRING_MAX: usize = 255;

/// Who an entry of rpcbind belongs to.
const OWNER: &[u8] = b"isowire";

/// Transport protocols, by their IP numbers (RFC 1833 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp = 6,
    Udp = 17,
}

/// How a call came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallOrigin {
    pub transport: Transport,
    /// Where the client sent it: an address that leads to this host from there, and our own port.
    pub local: SocketAddr,
}

/// One thing that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Service {
    program: u32,
    version: u32,
    transport: Transport,
    port: u16,
}

/// Whether a call gets a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Reply,
    Silence,
}

/// The portmapper of a host where NFS and MOUNT are served at one port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portmapper {
    nfs_port: u16,
}

impl Portmapper {
    pub(crate) const fn new(nfs_port: u16) -> Self {
        Self { nfs_port }
    }

    /// Answers every complete record of `input` as records in `out`; returns how many bytes of `input` that were.
    ///
    /// # Errors
    /// [`RecordError`] when nothing that follows can make sense. What came before it is answered.
    pub(crate) fn handle_stream(
        &self,
        input: &[u8],
        local: SocketAddr,
        out: &mut Vec<u8>,
    ) -> Result<usize, RecordError> {
        let arrival = CallOrigin { transport: Transport::Tcp, local };
        let mut taken = 0;
        while let Some(record) = rpc::next_record(input.get(taken..).unwrap_or_default())? {
            taken += record.len;
            let start = rpc::begin_record(out);
            let answer = self.reply(&record.message, arrival, out);
            match answer {
                Ok(Answer::Reply) => rpc::end_record(out, start, 0),
                Ok(Answer::Silence) | Err(NotACallError) => out.truncate(start),
            }
            answer?;
        }
        Ok(taken)
    }

    /// Answers the call in a datagram; `out` stays as it is when there is nothing to say.
    pub(crate) fn handle_datagram(&self, datagram: &[u8], local: SocketAddr, out: &mut Vec<u8>) {
        let start = out.len();
        let arrival = CallOrigin { transport: Transport::Udp, local };
        if self.reply(datagram, arrival, out) != Ok(Answer::Reply) {
            out.truncate(start);
        }
    }

    fn reply(&self, message: &[u8], arrival: CallOrigin, out: &mut Vec<u8>) -> Result<Answer, NotACallError> {
        let message = RpcMessage::parse(message)?;
        let answer = message.answer(out, |call, results| self.call(call, arrival, results));
        Ok(answer.unwrap_or(Answer::Reply))
    }

    fn call(
        &self,
        call: &Call<'_>,
        arrival: CallOrigin,
        results: &mut Emitter<'_>,
    ) -> Result<Answer, CallError> {
        match (call.program, call.version) {
            (PORTMAP, PORTMAPPER..=RPCBIND_4) => {}
            (PORTMAP, _) => return Err(CallError::ProgMismatch { low: PORTMAPPER, high: RPCBIND_4 }),
            _ => return Err(CallError::ProgUnavail),
        }
        match (call.procedure, call.version) {
            (NULL, _) => {}
            // What is registered here is ours alone to say.
            (SET | UNSET, _) => results.boolean(false),
            (GETPORT, PORTMAPPER) => self.getport(call, arrival, results)?,
            (GETPORT, _) | (GETVERSADDR, RPCBIND_4) => self.getaddr(call, arrival, results)?,
            (DUMP, _) => self.dump(call.version, arrival, results)?,
            // RFC 1833 §3.2: no reply unless the procedure was called with success, and we call for nobody.
            (CALLIT, _) => return Ok(Answer::Silence),
            _ => return Err(CallError::ProcUnavail),
        }
        Ok(Answer::Reply)
    }

    /// The port, 0 for what is not here (RFC 1833 §3.2).
    fn getport(
        &self,
        call: &Call<'_>,
        arrival: CallOrigin,
        results: &mut Emitter<'_>,
    ) -> Result<(), CallError> {
        let mut args = call.args;
        let (program, version, protocol, _port) =
            (args.u32_be()?, args.u32_be()?, args.u32_be()?, args.u32_be()?);
        let wanted = |service: &Service| {
            service.program == program && service.version == version && service.transport as u32 == protocol
        };
        let found = self.services(arrival).find(wanted);
        results.u32(found.map_or(0, |service| service.port.into()));
        Ok(())
    }

    /// The universal address, empty for what is not here (RFC 1833 §2.2.1).
    fn getaddr(
        &self,
        call: &Call<'_>,
        arrival: CallOrigin,
        results: &mut Emitter<'_>,
    ) -> Result<(), CallError> {
        let mut args = call.args;
        let (program, version) = (args.u32_be()?, args.u32_be()?);
        for _netid_address_owner in 0..3 {
            xdr::opaque(&mut args, STRING_MAX)?;
        }
        // RFC 1833 §2.2.1: the netid of the argument does not count, that of the transport does.
        let wanted = |service: &Service| {
            service.program == program && service.version == version && service.transport == arrival.transport
        };
        match self.services(arrival).find(wanted) {
            Some(service) => results.opaque(universal_address(arrival.local, service.port).as_bytes()),
            None => results.opaque(b""),
        }
        Ok(())
    }

    fn dump(&self, version: u32, arrival: CallOrigin, results: &mut Emitter<'_>) -> Result<(), CallError> {
        // A list is many times as long as the call, and whose address a datagram bears is anybody's guess.
        if arrival.transport == Transport::Udp {
            return Err(CallError::ProcUnavail);
        }
        for service in self.services(arrival) {
            results.boolean(true);
            results.u32(service.program);
            results.u32(service.version);
            if version == PORTMAPPER {
                results.u32(service.transport as u32);
                results.u32(service.port.into());
            } else {
                results.opaque(netid(service.transport, arrival.local));
                results.opaque(universal_address(arrival.local, service.port).as_bytes());
                results.opaque(OWNER);
            }
        }
        results.boolean(false);
        Ok(())
    }

    fn services(&self, arrival: CallOrigin) -> impl Iterator<Item = Service> + use<> {
        let versions = [RPCBIND_4, RPCBIND_3, PORTMAPPER];
        let (port, nfs_port) = (arrival.local.port(), self.nfs_port);
        let own = versions.into_iter().flat_map(move |version| {
            [Transport::Tcp, Transport::Udp].map(|transport| Service {
                program: PORTMAP,
                version,
                transport,
                port,
            })
        });
        let served = [NFS, MOUNT].map(|program| Service {
            program,
            version: SERVED,
            transport: Transport::Tcp,
            port: nfs_port,
        });
        own.chain(served)
    }
}

/// Names of transports (RFC 5665 §5.1).
const fn netid(transport: Transport, local: SocketAddr) -> &'static [u8] {
    match (transport, local) {
        (Transport::Tcp, SocketAddr::V4(_)) => b"tcp",
        (Transport::Udp, SocketAddr::V4(_)) => b"udp",
        (Transport::Tcp, SocketAddr::V6(_)) => b"tcp6",
        (Transport::Udp, SocketAddr::V6(_)) => b"udp6",
    }
}

/// The address with the two bytes of the port behind it, in decimal (RFC 5665 §5.2.3.3).
fn universal_address(local: SocketAddr, port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    format!("{}.{high}.{low}", local.ip())
}

#[cfg(test)]
mod tests;
