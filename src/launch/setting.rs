//! What a worker's process finds when it begins: its environment, its working directory, its niceness. It does not start
//! the process, and asks for nothing that `posix_spawn` cannot do: the standard library would copy this process instead.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::{fmt, io, thread};

use tokio::process::Command;
use tokio::runtime::Handle;

use crate::sys::process;

/// What the name of a variable contains whose value is better not handed to every worker, and to whatever the worker
/// starts or dumps. Fewer would miss some; more would take away what programs need.
const SECRET: [&str; 10] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "PRIVATE_KEY",
    "ACCESS_KEY",
    "API_KEY",
    "APIKEY",
];

/// How a worker's process differs from ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setting {
    /// Whether nothing is inherited but what is named.
    clear: bool,
    /// Whether what looks like a secret is inherited too.
    trusting: bool,
    variables: BTreeMap<OsString, Variable>,
    folder: Option<PathBuf>,
    /// What is added to this process's niceness.
    pub(crate) nice: i32,
    /// Whether a guardian starts it.
    pub(crate) contained: bool,
}

/// What becomes of a variable.
#[derive(Clone, PartialEq, Eq)]
enum Variable {
    Set(OsString),
    Inherited,
    Removed,
}

impl fmt::Debug for Variable {
    /// Without the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Set(_) => "Set",
            Self::Inherited => "Inherited",
            Self::Removed => "Removed",
        })
    }
}

impl Setting {
    /// That of workers below a worker: what this one was given is theirs too.
    pub(crate) fn handed_on() -> Self {
        Self { trusting: true, ..Self::default() }
    }

    pub(crate) fn set(&mut self, name: OsString, value: OsString) {
        self.variables.insert(name, Variable::Set(value));
    }

    /// Sets a variable of which nothing else was said.
    pub(crate) fn suggest(&mut self, name: OsString, value: OsString) {
        self.variables.entry(name).or_insert(Variable::Set(value));
    }

    pub(crate) fn inherit(&mut self, name: OsString) {
        self.variables.insert(name, Variable::Inherited);
    }

    pub(crate) fn remove(&mut self, name: OsString) {
        self.variables.insert(name, Variable::Removed);
    }

    /// Forgets what was said of variables before, and inherits none.
    pub(crate) fn clear(&mut self) {
        self.clear = true;
        self.variables.clear();
    }

    /// A relative path counts from where this process is now.
    pub(crate) fn enter(&mut self, folder: PathBuf) {
        self.folder = Some(std::path::absolute(&folder).unwrap_or(folder));
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Has a command begin like this.
    pub(crate) fn apply(&self, command: &mut Command) {
        if self.clear {
            command.env_clear();
        } else if !self.trusting {
            for (name, _) in std::env::vars_os() {
                if is_secret(&name) && !self.variables.contains_key(&name) {
                    tracing::debug!(name = %name.display(), "a variable that looks secret is not inherited");
                    command.env_remove(name);
                }
            }
        }
        for (name, variable) in &self.variables {
            match variable {
                Variable::Set(value) => {
                    command.env(name, value);
                }
                Variable::Inherited if self.clear => {
                    command.envs(std::env::var_os(name).map(|value| (name, value)));
                }
                // It is, unless it is removed.
                Variable::Inherited => {}
                Variable::Removed => {
                    command.env_remove(name);
                }
            }
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
    }

    /// Calls `spawn` in such a way that the process which it starts has the niceness.
    ///
    /// A process takes it over from the thread that starts it, before its first instruction. That thread has to be one of
    /// its own: taking niceness back needs a privilege.
    ///
    /// # Errors
    ///
    /// What `spawn` says, and when the niceness is not allowed or there is no thread.
    pub(crate) fn spawn<T: Send>(&self, spawn: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.nice == 0 {
            return spawn();
        }
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let niced = || {
            let _entered = runtime.enter();
            process::nice(self.nice)?;
            spawn()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("procpool-nice".into()).spawn_scoped(scope, niced)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has failed")))
        })
    }
}

/// Whether the name of a variable suggests that its value is a secret.
fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_uppercase();
    SECRET.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_suggest_a_secret_are_told_from_others() {
        for name in ["GITHUB_TOKEN", "aws_secret_access_key", "PGPASSWORD", "OPENAI_API_KEY", "Db_Passwd"] {
            assert!(is_secret(name.as_ref()), "{name}");
        }
        for name in ["PATH", "HOME", "PWD", "LANG", "SSH_AUTH_SOCK", "KEYBOARD", "RUST_LOG", ""] {
            assert!(!is_secret(name.as_ref()), "{name}");
        }
    }

    #[test]
    fn a_setting_shows_no_values() {
        let mut setting = Setting::default();
        setting.set("KEY".into(), "hush".into());
        let shown = format!("{setting:?}");
        assert!(shown.contains("KEY") && !shown.contains("hush"), "{shown}");
    }
}
