//! Holds the ladder: a file of `src` imports only rooms on rows strictly below its own. Also where `unsafe` may be, how
//! long a file may get, and that each begins with what it is responsible for.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms by row, lowest first. A room that is missing here may not be named at all.
const ROWS: [&[&str]; 9] = [
    &["id", "sys", "vigil"],
    &["error", "blob", "arena", "state"],
    &["event", "wire", "context"],
    &["sched", "link", "emit", "uplink"],
    &["launch", "task"],
    &["driver", "worker"],
    &["pool"],
    &["nested", "launch/in_process"],
    &["lib"],
];

/// Longer files are more than one person reads in one go. Tests are read one at a time.
const LINES: usize = 450;

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|rooms| rooms.contains(&room))
}

/// The room of a file, by its path under `src`.
fn room(file: &str) -> &str {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    if row(path).is_some() { path } else { path.split('/').next().unwrap_or(path) }
}

/// The code without comments, and with string and character literals emptied.
fn code(source: &str) -> String {
    let (mut out, mut rest) = (String::new(), source);
    while let Some(c) = rest.chars().next() {
        let raw =
            rest.trim_start_matches('b').strip_prefix('r').map(|raw| (raw, raw.trim_start_matches('#')));
        let glued = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some((raw, quoted)) = raw.filter(|(_, quoted)| quoted.starts_with('"') && !glued) {
            let end = format!("\"{}", "#".repeat(raw.len() - quoted.len()));
            let start = rest.len() - quoted.len() + 1;
            rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let literal = std::mem::replace(&mut escaped, false);
                escaped = c == '\\' && !literal;
                c == '"' && !literal
            });
            end.map_or(rest.len(), |at| at + 2)
        } else if let Some(quoted) = rest.strip_prefix("'\\") {
            quoted[1..].find('\'').map_or(rest.len(), |at| at + 4)
        } else if c == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at)
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push(' ');
        rest = &rest[skip..];
    }
    out
}

/// What the code names behind each `prefix`, groups in braces opened: `crate::{a::B, c}` names `a::B` and `c`.
fn paths(code: &str, prefix: &str) -> Vec<String> {
    let words = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == ' ' || c == '\n';
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = code[at + prefix.len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            found.push(rest[..rest.find(|c| !words(c)).unwrap_or(rest.len())].trim().to_owned());
            continue;
        };
        let (mut depth, mut part) = (1, String::new());
        for c in group.chars() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 || (depth == 1 && c == ',') {
                found.push(std::mem::take(&mut part).trim().to_owned());
            } else {
                part.push(c);
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// What is wrong with a file.
fn complaints(file: &str, source: &str) -> Vec<String> {
    let code = code(source);
    let mut out = Vec::new();
    let Some(own) = row(room(file)) else { return vec![format!("{file}: its room is on no row")] };
    let mut named = paths(&code, "crate::");
    // In a file at the top of its room, the room above is the crate.
    if !file.trim_end_matches("/mod.rs").contains('/') {
        named.extend(paths(&code, "super::").into_iter().filter(|path| row(first(path)).is_some()));
    }
    // A macro that is exported lives at the root, and what it expands to can only name re-exports.
    named.retain(|path| !path.starts_with("Worker::init_in_test") && !path.starts_with("worker_test"));
    for path in named {
        let target = path.split("::").take(2).map(str::trim).collect::<Vec<_>>().join("/");
        let target = room(&target);
        match row(target) {
            None => out.push(format!("{file}: crate::{path} names no room (use the room, not a re-export)")),
            Some(theirs) if theirs >= own && target != room(file) => {
                out.push(format!("{file}, on row {own}, names crate::{path}, on row {theirs}"));
            }
            Some(_) => {}
        }
    }
    if code.contains("super::super") {
        out.push(format!("{file}: super::super"));
    }
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    if !file.starts_with("sys/") && words.any(|word| word == "unsafe") {
        out.push(format!("{file}: unsafe outside sys"));
    }
    let lines = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
    if lines > LINES
        && !["tests.rs", "sim.rs"].iter().any(|tests| file.ends_with(tests))
        && !file.contains("tests/")
    {
        out.push(format!("{file}: {lines} lines"));
    }
    if !source.starts_with("//!") && !source.starts_with("#![doc = include_str!") {
        out.push(format!("{file}: does not begin with what it is responsible for"));
    }
    out
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or(path).trim()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut out: Vec<_> =
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect();
    out.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    out.sort();
    out
}

#[test]
fn every_file_stands_on_its_row() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&src);
    assert!(files.len() > 10, "the sources are not where they were");
    let wrong: Vec<_> = files
        .iter()
        .flat_map(|path| {
            complaints(path.strip_prefix(&src).unwrap().to_str().unwrap(), &fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn planted_violations_are_seen_and_what_is_allowed_passes() {
    let check = |file: &str, text: &str| complaints(file, &format!("//! Doc.\n{text}"));
    for (file, text, reason) in [
        ("wire/frame.rs", "use crate::sched::Input;", "row 2, names crate::sched::Input, on row 3"),
        ("link.rs", "use crate::sched::Input;", "names crate::sched"),
        ("link.rs", "use crate::{id::TaskId, pool::{Pool, Run}};", "crate::pool::{Pool, Run}"),
        ("link.rs", "use crate::{\n    id,\n    driver,\n};", "crate::driver"),
        ("task.rs", "fn f() { crate::pool::Pool::new() }", "crate::pool::Pool"),
        ("task.rs", "let a = '\"'; let b = \"\\\"\"; use crate::pool;", "crate::pool"),
        ("task.rs", "let a = br#\"\"\"#; use crate::pool;", "crate::pool"),
        ("task.rs", "use super::pool::Pool;", "crate::pool::Pool"),
        ("sched/mod.rs", "use super::driver::Driver;", "crate::driver"),
        ("launch/local.rs", "use crate::launch::in_process::InProcess;", "on row 7"),
        ("worker/mod.rs", "use crate::driver;", "on row 5"),
        ("pool/run.rs", "use crate::Error;", "re-export"),
        ("pool/run.rs", "use crate::{Error, id};", "re-export"),
        ("extra.rs", "", "on no row"),
        ("pool/run.rs", "use super::super::driver;", "super::super"),
        ("pool/run.rs", "fn f() { unsafe { g() } }", "unsafe outside sys"),
        ("pool/run.rs", &"\n".repeat(LINES), "lines"),
    ] {
        let found = check(file, text);
        assert!(found.iter().any(|complaint| complaint.contains(reason)), "{file}: {text:?} gives {found:?}");
    }
    assert_eq!(complaints("id.rs", "fn f() {}").len(), 1, "no doc");
    for (file, text) in [
        (
            "pool/run.rs",
            "use crate::{driver::{self, Driver}, id::TaskId};\nuse crate::pool::builder::Builder;",
        ),
        ("nested.rs", "use crate::{context::Context, pool::Pool};"),
        ("launch/in_process.rs", "use crate::{launch::Launcher, worker::Worker, pool::Pool};"),
        ("launch/local.rs", "use crate::launch::process::Process; use super::service;"),
        ("sched/scheduler.rs", "use super::worker::Worker; // crate::pool, unsafe"),
        (
            "id.rs",
            "/// See [`crate::Error`].\nconst A: &str = \"crate::pool unsafe\"; fn f<'a>(b: &'a str) {}",
        ),
        ("sys/memory.rs", "fn f() { unsafe { g() } }"),
        ("id.rs", "macro_rules! id { () => { $crate::id::TaskId } } fn not_unsafe_at_all() {}"),
        ("lib.rs", "pub use pool::Pool; use crate::nested;"),
        ("wire/tests.rs", &"\n".repeat(2 * LINES)),
        ("pool/run.rs", &format!("#[cfg(test)]\nmod tests {{{}}}", "\n".repeat(LINES))),
    ] {
        assert_eq!(check(file, text), [] as [String; 0], "{file}: {text:?}");
    }
}
