//! `wit/1.0.0` as generated Rust. Outside this crate only `fleet`'s types are used; see [`crate::convert`].

wasmtime::component::bindgen!({
    path: "../../wit/1.0.0",
    world: "roll-policy-and-loss-classifier",
    // Facts are lent to the call and not copied on the host's side.
    ownership: Borrowing { duplicate_if_necessary: true },
});
