//! The only place with `unsafe`: one small safe function per facility of the kernel that `nix` lacks or marks unsafe. It
//! knows nothing of the crate.
#![expect(unsafe_code, reason = "this is the room for it; each block has its SAFETY argument")]

pub(crate) mod buffer;
pub(crate) mod bulk;
pub(crate) mod descriptors;
pub(crate) mod memory;
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod ready;
pub(crate) mod signal;
pub(crate) mod socket;
#[cfg(test)]
pub(crate) mod stdio;
