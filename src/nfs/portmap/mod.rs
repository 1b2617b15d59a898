//! Portmapper version 2 and rpcbind versions 3 and 4 (RFC 1833): the ports of NFS and MOUNT.
//!
//! archiso's nfsmount asks the portmapper before anything else, and has no option to do without.
//! The registrations are fixed: NFS and MOUNT, version 3 over TCP, at one port, and this program
//! itself. [`registration`] is the other side, for hosts whose own rpcbind has port 111.

pub(crate) mod registration;

use std::net::SocketAddr;

pub(crate) use super::mount::PROGRAM as MOUNT;
use super::rpc::{self, Call, CallError, NotACallError, RecordError, RpcMessage};
pub(crate) use super::wire::PROGRAM as NFS;
use super::xdr::{self, Emitter};
use super::{mount, wire};

/// Number of this program in all versions (RFC 1833 §1).
pub(crate) const PORTMAP: u32 = 100_000;

/// Version of NFS and of MOUNT that is registered.
const SERVED_VERSION: u32 = wire::VERSION;
const _: () = assert!(SERVED_VERSION == mount::VERSION);

/// Versions of this program.
const PORTMAPPER: u32 = 2;
const RPCBIND_3: u32 = 3;
const RPCBIND_4: u32 = 4;

/// Procedures (RFC 1833 §2.1 and §3.1). Up to 5, all versions use the same numbers.
const NULL: u32 = 0;
const SET: u32 = 1;
const UNSET: u32 = 2;
const GETPORT: u32 = 3;
const DUMP: u32 = 4;
const CALLIT: u32 = 5;
/// Added by rpcbind version 4 (RFC 1833 §2.2.2).
const GETVERSADDR: u32 = 9;

/// Longest string of `struct rpcb`, in bytes. The protocol sets no limit; the longest string that
/// makes sense is a universal IPv6 address with 47.
const STRING_MAX: usize = 255;

/// Owner of the registrations, in the list of rpcbind.
const OWNER: &[u8] = b"isowire";

/// Transport protocols by their IP protocol numbers (RFC 1833 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp = 6,
    Udp = 17,
}

/// Transport and destination of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallOrigin {
    pub transport: Transport,
    /// Address that the client called, which leads to this host from there, and our own port.
    pub local: SocketAddr,
}

/// A registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Service {
    program: u32,
    version: u32,
    transport: Transport,
    port: u16,
}

/// Versions of a program that answer a call for an address (RFC 1833 §2.2.1 and §2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WantedVersion {
    /// GETADDR: any version if the asked one is not registered.
    Any,
    /// GETVERSADDR: only the asked one.
    Exact,
}

/// Decision whether a call gets a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortmapOutcome {
    Reply,
    NoReply,
}

/// The portmapper of a host that serves NFS and MOUNT at one port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portmapper {
    nfs_port: u16,
}

impl Portmapper {
    /// Creates a portmapper that tells `nfs_port`.
    pub(crate) const fn new(nfs_port: u16) -> Self {
        Self { nfs_port }
    }

    /// Answers the complete records of `input` as records in `out`; returns the bytes of `input`
    /// that they take.
    ///
    /// # Errors
    /// [`RecordError`] if the rest of the stream cannot be parsed. Calls before it are answered.
    pub(crate) fn handle_stream(
        &self,
        input: &[u8],
        local: SocketAddr,
        out: &mut Vec<u8>,
    ) -> Result<usize, RecordError> {
        let origin = CallOrigin { transport: Transport::Tcp, local };
        let mut taken = 0;
        while let Some(record) = rpc::next_record(input.get(taken..).unwrap_or_default())? {
            taken += record.len;
            let start = rpc::begin_record(out);
            let outcome = self.reply(&record.message, origin, out);
            match outcome {
                Ok(PortmapOutcome::Reply) => rpc::end_record(out, start, 0),
                Ok(PortmapOutcome::NoReply) | Err(NotACallError) => out.truncate(start),
            }
            outcome?;
        }
        Ok(taken)
    }

    /// Appends the reply to the call in a datagram, if it gets one.
    pub(crate) fn handle_datagram(&self, datagram: &[u8], local: SocketAddr, out: &mut Vec<u8>) {
        let start = out.len();
        let origin = CallOrigin { transport: Transport::Udp, local };
        // A datagram that is not a call gets no reply: two portmappers could answer each other for
        // ever.
        if self.reply(datagram, origin, out) != Ok(PortmapOutcome::Reply) {
            out.truncate(start);
        }
    }

    fn reply(
        &self,
        message: &[u8],
        origin: CallOrigin,
        out: &mut Vec<u8>,
    ) -> Result<PortmapOutcome, NotACallError> {
        let message = RpcMessage::parse(message)?;
        let outcome = message.answer(out, |call, results| self.call(call, origin, results));
        Ok(outcome.unwrap_or(PortmapOutcome::Reply))
    }

    fn call(
        &self,
        call: &Call<'_>,
        origin: CallOrigin,
        results: &mut Emitter<'_>,
    ) -> Result<PortmapOutcome, CallError> {
        match (call.program, call.version) {
            (PORTMAP, PORTMAPPER..=RPCBIND_4) => {}
            (PORTMAP, _) => return Err(CallError::ProgMismatch { low: PORTMAPPER, high: RPCBIND_4 }),
            _ => return Err(CallError::ProgUnavail),
        }
        match (call.procedure, call.version) {
            (NULL, _) => {}
            // RFC 1833 §2.2.2: only programs of the same machine may register. Here the
            // registrations are fixed, so the answer is FALSE to everyone.
            (SET | UNSET, _) => results.boolean(false),
            (GETPORT, PORTMAPPER) => self.getport(call, origin, results)?,
            // Procedure 3 of rpcbind is GETADDR.
            (GETPORT, _) => self.getaddr(call, WantedVersion::Any, origin, results)?,
            (GETVERSADDR, RPCBIND_4) => self.getaddr(call, WantedVersion::Exact, origin, results)?,
            (DUMP, _) => self.dump(call.version, origin, results)?,
            // RFC 1833 §3.2: CALLIT is silent unless the called procedure succeeded. Calls are not
            // forwarded, since that would hide their senders from the called program.
            (CALLIT, _) => return Ok(PortmapOutcome::NoReply),
            _ => return Err(CallError::ProcUnavail),
        }
        Ok(PortmapOutcome::Reply)
    }

    /// Emits the port of a service, 0 if it is not registered (RFC 1833 §3.2).
    fn getport(
        &self,
        call: &Call<'_>,
        origin: CallOrigin,
        results: &mut Emitter<'_>,
    ) -> Result<(), CallError> {
        let mut args = call.args;
        // RFC 1833 §3.2: the port of the argument is ignored.
        let (program, _version, protocol, _port) =
            (args.u32_be()?, args.u32_be()?, args.u32_be()?, args.u32_be()?);
        // rpcbind (`find_service_pmap`) returns the port of any version if the asked one is not
        // registered: the service itself then tells its versions. `rpcinfo -t HOST nfs` asks for
        // version 0.
        // klibc's nfsmount gives up on 0 for NFS, and tries port 627 on 0 for MOUNT.
        results.u32(self.port(program, None, protocol, origin).unwrap_or(0).into());
        Ok(())
    }

    /// Emits the universal address of a service, empty if it is not registered (RFC 1833 §2.2.1).
    fn getaddr(
        &self,
        call: &Call<'_>,
        wanted: WantedVersion,
        origin: CallOrigin,
        results: &mut Emitter<'_>,
    ) -> Result<(), CallError> {
        let mut args = call.args;
        let (program, version) = (args.u32_be()?, args.u32_be()?);
        let version = (wanted == WantedVersion::Exact).then_some(version);
        for _netid_address_owner in 0..3 {
            xdr::opaque(&mut args, STRING_MAX)?;
        }
        // RFC 1833 §2.2.1: the netid of the argument is ignored; the transport of the call counts.
        match self.port(program, version, origin.transport as u32, origin) {
            Some(port) => results.opaque(universal_address(origin.local, port).as_bytes()),
            None => results.opaque(b""),
        }
        Ok(())
    }

    /// Emits the list of all services.
    fn dump(&self, version: u32, origin: CallOrigin, results: &mut Emitter<'_>) -> Result<(), CallError> {
        // A list is many times longer than the call, and a datagram may bear a forged address: over
        // UDP it would amplify attacks. `rpcinfo -p` asks over TCP.
        if origin.transport == Transport::Udp {
            return Err(CallError::ProcUnavail);
        }
        for service in self.services(origin) {
            results.boolean(true);
            results.u32(service.program);
            results.u32(service.version);
            if version == PORTMAPPER {
                results.u32(service.transport as u32);
                results.u32(service.port.into());
            } else {
                results.opaque(netid(service.transport, origin.local));
                results.opaque(universal_address(origin.local, service.port).as_bytes());
                results.opaque(OWNER);
            }
        }
        results.boolean(false);
        Ok(())
    }

    /// Finds the port of a service, in any version without one.
    fn port(&self, program: u32, version: Option<u32>, protocol: u32, origin: CallOrigin) -> Option<u16> {
        self.services(origin)
            .find(|service| {
                service.program == program
                    && version.is_none_or(|version| service.version == version)
                    && service.transport as u32 == protocol
            })
            .map(|service| service.port)
    }

    /// Returns all services: this program in each version, then NFS and MOUNT.
    fn services(&self, origin: CallOrigin) -> impl Iterator<Item = Service> + use<> {
        let versions = [RPCBIND_4, RPCBIND_3, PORTMAPPER];
        let (port, nfs_port) = (origin.local.port(), self.nfs_port);
        let own = versions.into_iter().flat_map(move |version| {
            [Transport::Tcp, Transport::Udp].map(|transport| Service {
                program: PORTMAP,
                version,
                transport,
                port,
            })
        });
        // archiso and Linux mount over TCP unless told otherwise; UDP is not served.
        let served = [NFS, MOUNT].map(|program| Service {
            program,
            version: SERVED_VERSION,
            transport: Transport::Tcp,
            port: nfs_port,
        });
        own.chain(served)
    }
}

/// Returns the name of a transport (RFC 5665 §5.1).
const fn netid(transport: Transport, local: SocketAddr) -> &'static [u8] {
    match (transport, local) {
        (Transport::Tcp, SocketAddr::V4(_)) => b"tcp",
        (Transport::Udp, SocketAddr::V4(_)) => b"udp",
        (Transport::Tcp, SocketAddr::V6(_)) => b"tcp6",
        (Transport::Udp, SocketAddr::V6(_)) => b"udp6",
    }
}

/// Formats a universal address: the IP address, then both bytes of the port in decimal (RFC 5665
/// §5.2.3.3).
fn universal_address(local: SocketAddr, port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    format!("{}.{high}.{low}", local.ip())
}

#[cfg(test)]
mod tests;
