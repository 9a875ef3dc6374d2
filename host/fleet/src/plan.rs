//! Planners: each reads the table of executors, the settings and the limits, and returns what should be done as plain
//! data. [`Fleet`](crate::Fleet) carries it out. A planner changes nothing, and keeps no list of work: the next step
//! plans again from the state at that moment.

pub(crate) mod allocate;
pub(crate) mod roll;
pub(crate) mod shrink;
