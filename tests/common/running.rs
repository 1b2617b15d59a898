//! A process that a test starts, watches by its log, and always ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest time from SIGTERM to the end of a process, before SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command` with both its streams in the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Running {
        let file = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file just opened can be duplicated"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running { child, log: log.to_owned() }
    }

    pub fn log(&self) -> String {
        text_of(&self.log)
    }

    /// Waits until `text` is in the log. Panics with the log if the time is up or the process ends.
    pub fn wait_for(&mut self, text: &str, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.log().contains(text) {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                panic!("ended ({status}) before `{text}`:\n{}", self.log());
            }
            assert!(Instant::now() < end, "no `{text}` within {limit:?}:\n{}", self.log());
            sleep(POLL);
        }
    }

    /// Waits until `count` lines of the log contain `text`. Panics with the log if the time is up.
    pub fn wait_for_lines(&mut self, text: &str, count: usize, limit: Duration) {
        let lines = |log: &str| log.lines().filter(|line| line.contains(text)).count();
        let end = Instant::now() + limit;
        while lines(&self.log()) < count {
            assert!(Instant::now() < end, "not {count} times `{text}` within {limit:?}:\n{}", self.log());
            sleep(POLL);
        }
    }

    /// Waits for the process to end by itself; returns `None` after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait().expect("our own child can be waited for") {
                None if Instant::now() < end => sleep(POLL),
                status => return status,
            }
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends SIGKILL, which leaves the process no time to clean up.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// Sends SIGTERM, and after a while SIGKILL. The status tells which of them ended the process.
    pub fn stop(&mut self) -> ExitStatus {
        let _ = kill_process(self.pid(), Signal::TERM);
        if let Some(status) = self.wait(GRACE) {
            return status;
        }
        let _ = self.child.kill();
        self.child.wait().expect("our own child can be waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.stop();
        }
    }
}

/// Reads a log. Logs of emulated firmware are not always UTF-8.
pub fn text_of(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// Runs `command` to its end and returns its output. Panics with its standard error if it fails.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
