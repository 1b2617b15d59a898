//! Directories of a Debian system, to run its programs in.

use std::fs;
use std::path::{Path, PathBuf};

use super::needs::tool;
use super::running::output_of;

pub const NEEDS: [&str; 3] = ["root", "mmdebstrap", "apt-get"];

/// Returns a directory with a minimal system and these packages, which nobody may change.
///
/// It is made once for all runs, under this name: that takes a minute.
pub fn system(name: &str, packages: &[&str]) -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !kept.is_dir() {
        let made = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let [suite, mirror] = suite_and_mirror();
        let mut mmdebstrap = tool("mmdebstrap");
        mmdebstrap.args(["--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"]);
        mmdebstrap.arg(format!("--include={}", packages.join(",")));
        output_of(mmdebstrap.arg(suite).arg(made.path()).arg(mirror));
        fs::rename(made.keep(), &kept).unwrap();
    }
    kept
}

/// Returns the Debian release of this host, and where its packages come from.
fn suite_and_mirror() -> [String; 2] {
    let mut apt = tool("apt-get");
    apt.args(["indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]);
    let targets = output_of(&mut apt);
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap();
    let target = targets.lines().find_map(|line| line.strip_prefix(codename)?.strip_prefix(' '));
    [codename.to_owned(), target.expect("apt knows the release of this host").to_owned()]
}
