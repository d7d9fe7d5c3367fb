//! How much memory there is for frames: asked before anything is opened, so that the answer is a sentence and not the
//! kernel's `ENOBUFS`, or a visit from its OOM killer. (The limit on locked memory is none for this process: it has
//! `CAP_IPC_LOCK`.)

use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What the process takes besides frames, and may not have taken yet: rings, tables and stacks come to a few MiB. Twice
/// as much refuses a small machine for nothing; without it, the OOM killer comes with the first tables.
const ALLOWANCE: u64 = 32 << 20;

/// More is needed than may be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} MiB of memory are needed for frames and {} MiB beside them; {limit}", needed.div_ceil(1 << 20), ALLOWANCE >> 20)]
pub struct TooLittleMemory {
    /// Bytes that are needed for frames.
    pub needed: u64,
    /// What limits it, and what to do.
    pub limit: String,
}

/// Whether so many bytes of memory can be had for frames, and a little for everything else.
pub fn check(needed: u64) -> Result<(), TooLittleMemory> {
    match limits().into_iter().find(|limit| limit.bytes < needed.saturating_add(ALLOWANCE)) {
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
    let cgroup = cgroup_room(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup")).map(|bytes| Limit {
        bytes,
        words: format!(
            "this process's control group may have {} MiB more (memory.max and memory.high, in version 1 \
             memory.limit_in_bytes; under systemd, MemoryMax= and MemoryHigh=)",
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

/// How a version of control groups calls things: the limits, what is used of them, and what of that is files' pages,
/// which the kernel takes back when memory is wanted.
struct Names {
    limits: &'static [&'static str],
    used: &'static str,
    files: [&'static str; 2],
}

/// Documentation/admin-guide/cgroup-v2.rst: beyond `memory.high` a group is slowed down, beyond `memory.max` killed.
const VERSION_2: Names =
    Names { limits: &["memory.max", "memory.high"], used: "memory.current", files: ["inactive_file", "active_file"] };

/// Documentation/admin-guide/cgroup-v1/memory.rst. Without a limit the file has a number beyond any memory.
const VERSION_1: Names = Names {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};

/// What the process's control group and those around it may still have (cgroups(7)), in bytes: the least of them. In a
/// hybrid hierarchy the process is in groups of both versions, and memory is accounted in one of them.
fn cgroup_room(root: &Path, own: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(":/")?;
        match controllers {
            "" => least_room(root, path, &VERSION_2),
            _ if controllers.split(',').any(|one| one == "memory") => {
                least_room(&root.join("memory"), path, &VERSION_1)
            }
            _ => None,
        }
    };
    own.lines().filter_map(of_line).min()
}

fn least_room(root: &Path, path: &str, names: &Names) -> Option<u64> {
    let group: PathBuf = root.join(path);
    let groups = group.ancestors().take_while(|group| group.starts_with(root));
    groups.filter_map(|group| room(group, names)).min()
}

/// What one group may still have; `None` without a limit.
fn room(group: &Path, names: &Names) -> Option<u64> {
    let number = |name: &&str| read(group.join(name)).trim().parse::<u64>().ok();
    let limit = names.limits.iter().filter_map(number).min()?;
    let statistics = read(group.join("memory.stat"));
    let files = statistics.lines().filter_map(|line| line.split_once(' ')).filter(|(key, _)| names.files.contains(key));
    let reclaimable: u64 = files.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum();
    let used = number(&names.used).unwrap_or(0).saturating_sub(reclaimable);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(available("MemTotal:  100 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available(""), None);
    }

    /// A directory with these files in it.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("write");
        }
        root
    }

    #[test]
    fn the_narrowest_control_group_limits() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, Option<u64>);
        let unlimited = "9223372036854771712\n";
        let rows: [Row<'_>; 9] = [
            ("no limit", &[("a/b/memory.max", "max\n"), ("a/b/memory.current", "5\n")], "0::/a/b\n", None),
            ("the outer one's", &[("a/b/memory.max", "max\n"), ("a/memory.max", "1000\n")], "0::/a/b\n", Some(1000)),
            ("less what is used", &[("a/memory.max", "1000\n"), ("a/memory.current", "300\n")], "0::/a\n", Some(700)),
            (
                "files' pages are given back",
                &[
                    ("a/memory.max", "1000\n"),
                    ("a/memory.current", "900\n"),
                    ("a/memory.stat", "anon 100\nactive_file 200\ninactive_file 400\n"),
                ],
                "0::/a\n",
                Some(700),
            ),
            ("the soft limit", &[("a/memory.max", "1000\n"), ("a/memory.high", "400\n")], "0::/a\n", Some(400)),
            ("used up", &[("a/memory.max", "1000\n"), ("a/memory.current", "1001\n")], "0::/a\n", Some(0)),
            (
                "version 1",
                &[
                    ("memory/a/memory.limit_in_bytes", "1000\n"),
                    ("memory/a/memory.usage_in_bytes", "600\n"),
                    ("memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 100\n"),
                    ("memory/memory.limit_in_bytes", unlimited),
                ],
                "7:cpu,cpuacct:/a\n3:memory:/a\n1:name=systemd:/a\n",
                Some(600),
            ),
            (
                "hybrid: a container that sees its own group as the root",
                &[("memory/memory.limit_in_bytes", "1000\n")],
                "3:hugetlb,memory:/docker/0123\n0::/docker/0123\n",
                Some(1000),
            ),
            ("another controller's", &[("memory/a/memory.limit_in_bytes", "1000\n")], "3:cpu:/a\n", None),
        ];
        for (words, files, own, expected) in rows {
            assert_eq!(cgroup_room(tree(files).path(), own), expected, "{words}");
        }
    }

    #[test]
    fn too_much_is_refused_in_a_sentence() {
        assert_eq!(check(1 << 20), Ok(()));
        let refused = check(1 << 50).expect_err("a pebibyte");
        assert!(
            refused.to_string().starts_with("1073741824 MiB of memory are needed for frames and 32 MiB "),
            "{refused}"
        );
    }
}
