//! The pure core of Rollcall.
//!
//! Nothing in here knows a clock, a thread, a socket, a file, a random source or a hash order: what
//! happens is told to it, and what should happen is what it returns. For now it holds the types of
//! the two questions that it will ask, which the sandbox answers.

pub mod question;
