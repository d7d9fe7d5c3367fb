//! How much memory there is for frames: asked before anything is opened, so that the answer is a sentence and not the
//! kernel's `ENOBUFS`, or a visit from its OOM killer. (The limit on locked memory is none for this process: it has
//! `CAP_IPC_LOCK`.)

use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// More is needed than may be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} MiB of memory are needed for frames, and {limit}", needed.div_ceil(1 << 20))]
pub struct TooLittleMemory {
    /// Bytes that are needed.
    pub needed: u64,
    /// What limits it, and what to do.
    pub limit: String,
}

/// Whether so many bytes of memory can be had.
pub fn check(needed: u64) -> Result<(), TooLittleMemory> {
    match limits().into_iter().find(|limit| limit.bytes < needed) {
        Some(limit) => Err(TooLittleMemory { needed, limit: limit.words }),
        None => Ok(()),
    }
}

struct Limit {
    bytes: u64,
    words: String,
}

fn limits() -> Vec<Limit> {
    let mebibytes = |bytes: u64| bytes >> 20;
    let free = available(&read("/proc/meminfo"))
        .map(|bytes| Limit { bytes, words: format!("this machine has {} MiB available", mebibytes(bytes)) });
    let cgroup = cgroup_limit(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup")).map(|bytes| Limit {
        bytes,
        words: format!(
            "this process's control group may have {} MiB (memory.max; under systemd, MemoryMax=)",
            mebibytes(bytes)
        ),
    });
    [free, cgroup].into_iter().flatten().collect()
}

fn read(path: impl AsRef<Path>) -> String {
    // What cannot be read limits nothing that is known of; the kernel has the last word anyway.
    fs::read_to_string(path).unwrap_or_default()
}

/// `MemAvailable` of `/proc/meminfo` (proc(5)), in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The least `memory.max` of the process's control group and those around it (cgroups(7), version 2), in bytes.
fn cgroup_limit(root: &Path, own: &str) -> Option<u64> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group: PathBuf = root.join(path);
    let groups = group.ancestors().take_while(|group| group.starts_with(root));
    groups.filter_map(|group| read(group.join("memory.max")).trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(available("MemTotal:  100 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available(""), None);
    }

    #[test]
    fn the_narrowest_control_group_limits() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).expect("directories");
        fs::write(inner.join("memory.max"), "max\n").expect("write");
        assert_eq!(cgroup_limit(root.path(), "0::/a/b\n"), None);
        fs::write(root.path().join("a/memory.max"), "1048576\n").expect("write");
        assert_eq!(cgroup_limit(root.path(), "0::/a/b\n"), Some(1 << 20));
        assert_eq!(cgroup_limit(root.path(), "1:memory:/a\n"), None);
    }

    #[test]
    fn too_much_is_refused_in_a_sentence() {
        assert_eq!(check(1 << 20), Ok(()));
        let refused = check(1 << 50).expect_err("a pebibyte");
        assert!(refused.to_string().starts_with("1073741824 MiB of memory are needed for frames, and "), "{refused}");
    }
}
