//! Evidence that the kernel's out-of-memory killer has struck: the counter of the control group that this process and its
//! workers are in. A status says no more than SIGKILL. It does not say whom it struck.
//!
//! Each kill explains one death. The counter may move for a process that is none of ours; then a later SIGKILL of another
//! origin is taken for one of those. It is a hint.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Up to where the counter has been explained by deaths.
static EXPLAINED: AtomicU64 = AtomicU64::new(0);

/// How often the killer has struck in our control group; `None` where the kernel does not tell.
pub(super) fn kills() -> Option<u64> {
    // Processes seldom move between groups, and this is asked at every start of a worker.
    static COUNTER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let path = COUNTER.get_or_init(|| {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        counters(&groups).into_iter().find(|path| read(path).is_some())
    });
    read(path.as_ref()?)
}

/// How many kills since the counter stood at `before` may explain a death that nobody has explained yet. If there is any,
/// one of them is taken for this death.
pub(super) fn claim(before: Option<u64>) -> u64 {
    let (Some(before), Some(now)) = (before, kills()) else { return 0 };
    claim_of(&EXPLAINED, before, now)
}

fn claim_of(explained: &AtomicU64, before: u64, now: u64) -> u64 {
    let known = explained.load(Ordering::Relaxed).max(before);
    let left = now.saturating_sub(known);
    if left > 0 {
        explained.fetch_max(known + 1, Ordering::Relaxed);
    }
    left
}

/// Where the counter may be, by the contents of `/proc/self/cgroup`: in version 1 of control groups the memory controller
/// has a tree of its own, in version 2 there is one for all.
fn counters(groups: &str) -> Vec<PathBuf> {
    let below =
        |root: &str, path: &str, file: &str| Path::new(root).join(path.trim_start_matches('/')).join(file);
    let mut paths = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if controllers.split(',').any(|controller| controller == "memory") {
            // In a container the mount may show this group only, whatever its name outside.
            paths.push(below("/sys/fs/cgroup/memory", path, "memory.oom_control"));
            paths.push(below("/sys/fs/cgroup/memory", "", "memory.oom_control"));
        } else if controllers.is_empty() {
            paths.push(below("/sys/fs/cgroup", path, "memory.events"));
            paths.push(below("/sys/fs/cgroup/unified", path, "memory.events"));
        }
    }
    paths
}

fn read(path: &Path) -> Option<u64> {
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_understood() {
        assert_eq!(parse("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\n"), None);
        let first = |groups: &str| counters(groups).first().cloned();
        assert_eq!(first("0::/user.slice/a b\n"), Some("/sys/fs/cgroup/user.slice/a b/memory.events".into()));
        assert_eq!(
            first("9:cpu,cpuacct:/x\n8:memory:/docker/f00\n"),
            Some("/sys/fs/cgroup/memory/docker/f00/memory.oom_control".into())
        );
        assert_eq!(first("nonsense\n"), None);
    }

    #[test]
    fn each_kill_explains_one_death() {
        let explained = AtomicU64::new(0);
        // Two workers that were started at 5; the counter went to 7, and both are gone.
        assert_eq!(claim_of(&explained, 5, 7), 2);
        assert_eq!(claim_of(&explained, 5, 7), 1);
        assert_eq!(claim_of(&explained, 5, 7), 0);
        // One that was started later, and was killed by somebody else.
        assert_eq!(claim_of(&explained, 7, 7), 0);
        assert_eq!(claim_of(&explained, 7, 8), 1);
        // One that came later and was killed by something else has taken nothing.
        let explained = AtomicU64::new(0);
        assert_eq!(claim_of(&explained, 6, 6), 0);
        assert_eq!(claim_of(&explained, 5, 6), 1);
    }
}
