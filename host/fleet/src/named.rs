//! Enums whose variants have names for machines.

/// Defines an enum with a name for each variant, and the list of all variants.
///
/// The names are in JSON, records and metrics: they never change.
#[macro_export]
macro_rules! named {
    ($(#[$attribute:meta])* $visibility:vis enum $type:ident {
        $($(#[$of_variant:meta])* $variant:ident = $name:literal,)*
    }) => {
        $(#[$attribute])*
        $visibility enum $type {
            $($(#[$of_variant])* $variant,)*
        }

        impl $type {
            /// All variants, in the order of their declaration.
            $visibility const ALL: [$type; [$($name),*].len()] = [$($type::$variant),*];

            /// The name for machines.
            $visibility fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)*
                }
            }
        }
    };
}
