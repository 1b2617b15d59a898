//! The load generator of `benches/peers`: plays many clients of one server, and prints figures as
//! JSON.
//!
//! It reads the server's processor time at both ends of the timed window, so that neither warm-up
//! nor verification counts, and compares replies with the file in a second pass that is not timed.

#![expect(unsafe_code, reason = "clocks of other processes, and mappings; each block has its argument")]

mod account;
mod crowd;
mod dhcp;
mod engine;
mod histogram;
mod http;
mod limit;
mod nbd;
mod nfs;
mod random;
#[expect(dead_code, reason = "tests let it fail and hang as well")]
#[path = "../../tests/common/slow_disk.rs"]
mod slow_disk;
mod storm;
mod tftp;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser};
use serde_json::Value;

use engine::{LoadError, Plan};

/// Time before the measurement, in which the server and its connections reach a steady state.
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(Parser)]
enum Load {
    /// Reads
    Nbd(NbdLoad),
    /// Connects, and crowds of clients
    Crowd(Crowd),
    /// Boots of many machines
    Storm(Storm),
    /// Calls
    Nfs(NfsLoad),
    /// Downloads
    Http(HttpLoad),
    /// Downloads
    Tftp(TftpLoad),
    /// Leases
    Dhcp(DhcpLoad),
    /// Server that does nothing but send
    Limit { protocol: limit::Protocol, port: u16, file: PathBuf, method: limit::SendMethod },
    /// Disk whose every read takes that many milliseconds: mounts a copy of the file in a directory
    SlowDisk { file: PathBuf, mount_point: PathBuf, milliseconds: u64 },
}

#[derive(Args)]
struct Common {
    /// The server's process
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    server: SocketAddr,
    /// File that replies are compared with
    #[arg(long)]
    file: PathBuf,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1)]
    depth: usize,
}

impl Common {
    fn plan(&self) -> Plan {
        let window = Duration::from_secs_f64(self.seconds);
        Plan { depth: self.depth, one_per_segment: false, warm_up: WARM_UP, window, pid: self.pid }
    }

    fn open(&self) -> Result<Arc<File>, LoadError> {
        Ok(Arc::new(File::open(&self.file)?))
    }
}

#[derive(Args)]
struct Export {
    #[arg(long)]
    export: String,
    #[arg(long, default_value_t = 4096)]
    len: usize,
    #[arg(long, value_enum, default_value_t = nbd::Pattern::Random)]
    pattern: nbd::Pattern,
    /// Read only so many bytes of the file, from its start
    #[arg(long)]
    area: Option<u64>,
}

impl Export {
    fn reads(&self, file: Arc<File>, clients: usize) -> Result<nbd::Reads, LoadError> {
        let end = self.area.unwrap_or(file.metadata()?.len());
        Ok(nbd::Reads { file, area: 0..end, len: self.len, pattern: self.pattern, clients })
    }
}

#[derive(Args)]
struct NbdLoad {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    export: Export,
    #[arg(long)]
    one_per_segment: bool,
}

#[derive(Args)]
struct Crowd {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    export: Export,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    #[arg(long, default_value_t = 500)]
    stalled: usize,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    FewByFew,
    AllAtOnce,
    Idle,
    Cold,
}

#[derive(Args)]
struct Storm {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    export: Export,
    /// The reads of one boot
    #[arg(long)]
    trace: PathBuf,
    /// Seconds over which the machines are switched on
    #[arg(long, default_value_t = 5.0)]
    ramp: f64,
    /// Another server that shares the machines, as ADDRESS:PORT=PID
    #[arg(long)]
    also: Vec<storm::Process>,
}

#[derive(Args)]
struct NfsLoad {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value = "/")]
    path: String,
    /// The file below it
    #[arg(long, default_value = "big")]
    name: String,
    /// Port of MOUNT, if it is not that of NFS
    #[arg(long)]
    mount_port: Option<u16>,
    #[arg(long, value_enum)]
    call: nfs::Call,
    #[arg(long, default_value_t = 65536)]
    len: usize,
    /// Names in the directory
    #[arg(long, default_value_t = 10_000)]
    names: u64,
}

#[derive(Args)]
struct HttpLoad {
    #[command(flatten)]
    common: Common,
    #[arg(long)]
    path: String,
}

#[derive(Args)]
struct TftpLoad {
    #[command(flatten)]
    common: Common,
    #[arg(long)]
    path: String,
    #[arg(long, default_value_t = 1)]
    window: u16,
    #[arg(long, default_value_t = 0)]
    lose_one_of: u64,
    #[arg(long)]
    twice: bool,
}

#[derive(Args)]
struct DhcpLoad {
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    interface: String,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    together: usize,
}

fn main() -> ExitCode {
    match run(Load::parse()) {
        Ok(figures) => println!("{figures}"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(load: Load) -> Result<Value, LoadError> {
    match load {
        Load::Nbd(NbdLoad { common, export, one_per_segment }) => {
            let reads = export.reads(common.open()?, common.connections)?;
            let plan = Plan { one_per_segment, ..common.plan() };
            if reads.pattern != nbd::Pattern::Scattered {
                nbd::read_over(common.server, &export.export, &reads)?;
            }
            let connect = |count, _| nbd::connections(common.server, &export.export, &reads, count);
            engine::run(&plan, common.connections, connect)
        }
        Load::Crowd(Crowd { common, export, kind, idle, stalled }) => {
            let (reads, plan, server) =
                (export.reads(common.open()?, common.connections)?, common.plan(), common.server);
            let (export, count) = (&export.export, common.connections);
            match kind {
                Kind::FewByFew => crowd::few_by_few(server, export, &reads, &plan, count),
                Kind::AllAtOnce => crowd::all_at_once(server, export, &reads, &plan, count),
                Kind::Idle => crowd::beside_the_idle(server, export, &reads, &plan, (count, idle, stalled)),
                Kind::Cold => crowd::beside_the_cold(server, export, &reads, &plan, count),
            }
        }
        Load::Storm(Storm { common, export, trace, ramp, also }) => {
            let reads = export.reads(common.open()?, common.connections)?;
            let trace = storm::Trace::read(&trace, reads.area.end)?;
            let crowd = (common.connections, Duration::from_secs_f64(ramp));
            let first = storm::Process { server: common.server, pid: common.pid };
            let processes = [&[first], &also[..]].concat();
            let mut figures = storm::run(&processes, &export.export, &trace, crowd)?;
            engine::verify(&mut figures, nbd::connections(common.server, &export.export, &reads, 16)?, 1)?;
            Ok(figures)
        }
        Load::Nfs(NfsLoad { common, path, name, mount_port, call, len, names }) => {
            let file = File::open(&common.file)?;
            let mountd = SocketAddr::new(common.server.ip(), mount_port.unwrap_or(common.server.port()));
            let mount = nfs::Mount::new((common.server, mountd), (&path, &name), (call, len), file, names)?;
            let mount = Arc::new(mount);
            engine::run(&common.plan(), common.connections, |count, _| {
                nfs::connections(common.server, &mount, count)
            })
        }
        Load::Http(HttpLoad { common, path }) => {
            let file = common.open()?;
            let connect = |count, pass| http::connections(common.server, &path, &file, count, pass);
            engine::run(&common.plan(), common.connections, connect)
        }
        Load::Tftp(TftpLoad { common, path, window, lose_one_of, twice }) => {
            let options = tftp::Options { path, window, lose_one_of, twice };
            tftp::run(common.server, &options, &*common.open()?, &common.plan(), common.connections)
        }
        Load::Dhcp(DhcpLoad { pid, interface, seconds, together }) => {
            let window = Duration::from_secs_f64(seconds);
            let plan = Plan { depth: 1, one_per_segment: false, warm_up: WARM_UP, window, pid };
            dhcp::run(&interface, &plan, together)
        }
        Load::Limit { protocol, port, file, method } => {
            limit::serve(protocol, port, &file, method).map(|()| Value::Null)
        }
        Load::SlowDisk { file, mount_point, milliseconds } => {
            let delay = Duration::from_millis(milliseconds);
            let _disk = slow_disk::SlowDisk::mount(&file, &mount_point, delay)?;
            // Until the process is ended; whoever started it unmounts the directory.
            loop {
                std::thread::park();
            }
        }
    }
}
