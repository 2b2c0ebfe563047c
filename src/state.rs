//! What a worker builds once and all its tasks share: how it is declared, and where tasks find it. When it is built, and
//! what becomes of a failure, is decided elsewhere.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// A built state whose type is forgotten.
pub(crate) type Value = Box<dyn Any + Send + Sync>;

/// A state that is being built; or the reason why that failed.
pub(crate) type Building = Pin<Box<dyn Future<Output = Result<Value, String>>>>;

/// How one state is built.
pub(crate) struct Init {
    kind: TypeId,
    pub(crate) name: &'static str,
    pub(crate) start: Box<dyn FnOnce() -> Building + Send>,
}

/// The states that a worker declares, in the order in which they are built.
#[derive(Default)]
pub(crate) struct Inits(Vec<Init>);

/// The states of a worker, in the order in which they were built.
#[derive(Default)]
pub(crate) struct States(Vec<(TypeId, Value)>);

impl Inits {
    /// Declares a state.
    ///
    /// # Panics
    ///
    /// When there is one of that type already: tasks could not say which they mean.
    pub(crate) fn add<S, E, F>(&mut self, init: impl FnOnce() -> F + Send + 'static)
    where
        S: Send + Sync + 'static,
        E: fmt::Display,
        F: Future<Output = Result<S, E>> + 'static,
    {
        let start = Box::new(|| -> Building {
            // In the future, so that a `Box` is all that is made before it is polled.
            Box::pin(async {
                let built = init().await;
                built.map(|state| Box::new(state) as Value).map_err(|error| error.to_string())
            })
        });
        self.push(Init { kind: TypeId::of::<S>(), name: type_name::<S>(), start });
    }

    /// Adds what another worker declares, behind what is there.
    ///
    /// # Panics
    ///
    /// As [`add`](Self::add).
    pub(crate) fn append(&mut self, other: Self) {
        for init in other.0 {
            self.push(init);
        }
    }

    fn push(&mut self, init: Init) {
        assert!(
            self.0.iter().all(|other| other.kind != init.kind),
            "two states are of the type {}: wrap one of them in a type of its own",
            init.name
        );
        self.0.push(init);
    }
}

impl IntoIterator for Inits {
    type Item = Init;
    type IntoIter = std::vec::IntoIter<Init>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl States {
    pub(crate) fn push(&mut self, state: Value) {
        self.0.push(((*state).type_id(), state));
    }

    /// Takes out the state that was built last: they go in the reverse order.
    pub(crate) fn pop(&mut self) -> Option<Value> {
        self.0.pop().map(|(_, state)| state)
    }

    /// A scan: workers have a few states at most, and comparing is cheaper than hashing.
    pub(crate) fn get<S: 'static>(&self) -> Option<&S> {
        let kind = TypeId::of::<S>();
        let (_, state) = self.0.iter().find(|(other, _)| *other == kind)?;
        state.downcast_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt;

    use super::*;

    async fn number() -> Result<u32, Infallible> {
        Ok(7)
    }

    async fn none() -> Result<String, &'static str> {
        Err("there is none")
    }

    #[test]
    fn states_are_built_in_order_found_by_type_and_taken_out_in_reverse() {
        let (mut inits, mut more, mut states) = (Inits::default(), Inits::default(), States::default());
        inits.add(number);
        more.add(|| async { Ok::<_, Infallible>("text") });
        inits.append(more);
        let names: Vec<_> = inits
            .into_iter()
            .map(|init| {
                states.push((init.start)().now_or_never().unwrap().unwrap());
                init.name
            })
            .collect();
        assert_eq!(names, ["u32", "&str"]);
        assert_eq!(
            (states.get::<u32>(), states.get::<&str>(), states.get::<u8>()),
            (Some(&7), Some(&"text"), None)
        );
        assert!(
            states.pop().unwrap().is::<&str>() && states.pop().unwrap().is::<u32>() && states.pop().is_none()
        );
    }

    #[test]
    fn a_failure_comes_with_its_words() {
        let mut inits = Inits::default();
        inits.add(none);
        let init = inits.into_iter().next().unwrap();
        assert_eq!((init.start)().now_or_never().unwrap().unwrap_err(), "there is none");
    }

    #[test]
    #[should_panic(expected = "two states are of the type u32")]
    fn two_states_of_one_type_are_refused() {
        let (mut inits, mut more) = (Inits::default(), Inits::default());
        inits.add(number);
        more.add(number);
        inits.append(more);
    }
}
