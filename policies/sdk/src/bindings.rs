//! What `wit/` says, as Rust. Generated; only the SDK and its export macro look in here.
//!
//! One world for each exported interface rather than the contract's own worlds: the componentizer
//! unites the worlds that a module really exports, so a module with roll policies alone does not
//! have to pretend that it classifies losses.

pub mod base {
    wit_bindgen::generate!({
        path: "../../wit/1.0.0",
        inline: "
            package rollcall:sdk;
            world base {
                import rollcall:policy/log@1.0.0;
                import rollcall:policy/types@1.0.0;
                export rollcall:policy/describe@1.0.0;
            }",
        world: "rollcall:sdk/base",
        additional_derives: [PartialEq],
        generate_all,
        generate_unused_types: true,
        pub_export_macro: true,
        export_macro_name: "export_describe",
    });
}

pub mod roll {
    wit_bindgen::generate!({
        path: "../../wit/1.0.0",
        inline: "package rollcall:sdk; world roll-part { export rollcall:policy/roll@1.0.0; }",
        world: "rollcall:sdk/roll-part",
        with: { "rollcall:policy/types@1.0.0": crate::bindings::base::rollcall::policy::types },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_roll",
    });
}

pub mod loss {
    wit_bindgen::generate!({
        path: "../../wit/1.0.0",
        inline: "package rollcall:sdk; world loss-part { export rollcall:policy/loss@1.0.0; }",
        world: "rollcall:sdk/loss-part",
        with: { "rollcall:policy/types@1.0.0": crate::bindings::base::rollcall::policy::types },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_loss",
    });
}
