#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    DoubleResolve,
    ForgetLost,
    RerunBegun,
    RequeueLast,
    FeedLeaving,
    ForgetRung,
    AcceptStale,
    ForgetStarting,
    NoBackOff,
    CountStops,
}
