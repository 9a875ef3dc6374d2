//! `wit/1.0.0` as Rust, generated. What leaves this crate are `fleet`'s types; see [`crate::convert`].

wasmtime::component::bindgen!({
    path: "../../wit/1.0.0",
    world: "roll-policy-and-loss-classifier",
    // Facts are lent to the call, never copied on our side of the boundary.
    ownership: Borrowing { duplicate_if_necessary: true },
});
