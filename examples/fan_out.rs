//! Pools within pools: a directory tree, one task per folder, which has its sub-folders measured one level further down.
//!
//! Run it with `cargo run --release --example fan_out -- photos`. Whenever there are more processes than before it prints
//! the tree of them, and at the end the apparent sizes, in which what has several names counts once:
//!
//! ```text
//! root 71203
//!   worker 71210
//!     worker 71214
//!       worker 71219
//!     worker 71215
//! 12 folders with 49152 bytes of their own hold 734003200 bytes
//! ```
//!
//! The last number is that of GNU `du -sb`; before version 9.2 that prints the sum of both.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::{read_dir, read_to_string, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use procpool::{Context, ErrorKind, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Folder(PathBuf);

#[derive(Default, Serialize, Deserialize)]
struct Sizes {
    folders: u64,
    own: u64,
    bytes: u64,
    /// What has several names is added up when all of them are known: device, inode, size.
    shared: BTreeSet<(u64, u64, u64)>,
}

impl Task for Folder {
    const NAME: &'static str = "folder";
    type Output = Result<Sizes, String>;

    async fn run(self, cx: Context) -> Result<Sizes, String> {
        measure(self.0, &cx).await.map_err(|error| error.to_string())
    }
}

async fn measure(folder: PathBuf, cx: &Context) -> Result<Sizes, Box<dyn Error>> {
    let (mut sum, mut below) = (Sizes::default(), vec![folder]);
    while let Some(folder) = below.pop() {
        sum.folders += 1;
        sum.own += symlink_metadata(&folder)?.len();
        for entry in read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let entry = entry?;
            let meta = entry.metadata()?; // A link's own.
            match meta.nlink() {
                _ if meta.is_dir() => below.push(entry.path()),
                1 => sum.bytes += meta.len(),
                _ => drop(sum.shared.insert((meta.dev(), meta.ino(), meta.len()))),
            }
        }
        // At the deepest level there is no pool, and the loop goes on to whatever is below.
        if !below.is_empty()
            && let Ok(pool) = cx.pool()
        {
            let folders = std::mem::take(&mut below);
            let mut parts = pool.map_unordered(folders.clone().into_iter().map(Folder));
            while let Some(part) = parts.next().await {
                match part {
                    Ok(part) => sum.add(part?),
                    // There are as many processes as there may be, and none of them is one level down.
                    Err(error) if error.kind() == ErrorKind::LimitExceeded => {
                        below.extend(error.index().map(|n| folders[n as usize].clone()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(sum)
}

impl Sizes {
    fn add(&mut self, part: Self) {
        self.folders += part.folders;
        self.own += part.own;
        self.bytes += part.bytes;
        self.shared.extend(part.shared);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    Worker::new().task::<Folder>().init();

    // Its one task is the outermost folder. The rest of the tree grows below that, eight tasks at a time.
    let pool = Pool::builder().workers(1).places(8).depth_limit(4).build().await?;
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    let (mut run, mut most) = (pool.run(Folder(folder.into())), 0);
    let sum = loop {
        let done = tokio::time::timeout(Duration::from_millis(1), &mut run).await;
        let tree = tree();
        if tree.len() > most {
            most = tree.len();
            println!("{}", tree.join("\n"));
        }
        if let Ok(sum) = done {
            break sum??;
        }
    };
    let bytes = sum.bytes + sum.shared.iter().map(|(_, _, size)| size).sum::<u64>();
    println!("{} folders with {} bytes of their own hold {bytes} bytes", sum.folders, sum.own);
    Ok(())
}

/// This process and those below it, a line each.
fn tree() -> Vec<String> {
    let processes = read_dir("/proc").into_iter().flatten().flatten();
    let parent = |pid: u32| {
        let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()?, pid))
    };
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = pids.filter_map(parent).collect();
    let (mut lines, mut next) = (vec![], vec![("root", 0, std::process::id())]);
    while let Some((who, level, pid)) = next.pop() {
        lines.push(format!("{}{who} {pid}", "  ".repeat(level)));
        let children = parents.iter().filter(|(parent, _)| *parent == pid);
        next.extend(children.map(|(_, child)| ("worker", level + 1, *child)));
    }
    lines
}
