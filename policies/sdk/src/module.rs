//! From policies to a module: the traits that an author implements and the macro that exports them.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{Evidence, Fleet, Module, Policy, PolicyError, Question, Selection, SettingsError, Verdict};

/// Chooses executors to roll.
pub trait RollPolicy {
    /// By which configuration calls it: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    const NAME: &'static str;
    /// What it does; the first line is shown in listings.
    const DOCS: &'static str;
    /// Usually made with [`crate::settings!`]; [`NoSettings`] where there are none.
    type Settings: DeserializeOwned + JsonSchema;

    /// What is wrong with settings that fit the schema? Asked when a configuration is loaded.
    fn check(_settings: &Self::Settings) -> Vec<SettingsError> {
        Vec::new()
    }

    /// Which of the fleet's candidates should be rolled? An `Err` is a fault that the host counts
    /// before it asks the next policy; [`Selection::Abstain`] is none.
    fn select(settings: Self::Settings, fleet: &Fleet) -> Result<Selection, String>;
}

/// Says why an executor was lost.
pub trait LossClassifier {
    /// By which configuration calls it: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    const NAME: &'static str;
    /// What it does; the first line is shown in listings.
    const DOCS: &'static str;
    /// Usually made with [`crate::settings!`]; [`NoSettings`] where there are none.
    type Settings: DeserializeOwned + JsonSchema;

    /// What is wrong with settings that fit the schema? Asked when a configuration is loaded.
    fn check(_settings: &Self::Settings) -> Vec<SettingsError> {
        Vec::new()
    }

    /// Why was it lost? An `Err` is a fault that the host counts before it asks the next policy;
    /// [`Verdict::Abstain`] is none.
    fn classify(settings: Self::Settings, evidence: &Evidence) -> Result<Verdict, String>;
}

crate::settings! {
    /// This policy has no settings.
    pub struct NoSettings {}
}

/// Declares a settings struct: documented fields, each with its default. In JSON the names are
/// camelCase, every field may be left out, and unknown ones are refused.
///
/// ```
/// rollcall_policy::settings! {
///     /// When to roll.
///     pub struct Limits {
///         /// Share of time in garbage collection above which an executor is rolled, 0 to 1.
///         pub gc_share_max: f64 = 0.2,
///         /// Leave executors alone until they have run this many tasks.
///         pub tasks_min: i32 = 10,
///     }
/// }
/// assert_eq!(Limits::default().tasks_min, 10);
/// ```
#[macro_export]
macro_rules! settings {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident : $ty:ty = $default:expr),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, $crate::serde::Deserialize, $crate::serde::Serialize, $crate::schemars::JsonSchema)]
        #[serde(crate = "rollcall_policy::serde", rename_all = "camelCase", deny_unknown_fields, default)]
        #[schemars(crate = "rollcall_policy::schemars")]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $ty),*
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }
    };
}

/// Makes the crate's policies a module: `export!(roll: A, B)`, `export!(loss: C)`, or
/// `export!(roll: A, B; loss: C)`. Call it once, in the crate's root.
#[macro_export]
macro_rules! export {
    (roll: $($roll:ty),+ $(; loss: $($loss:ty),+)? $(;)?) => {
        $crate::export!(@ [$($roll),+] [$($($loss),+)?]);
    };
    (loss: $($loss:ty),+ $(;)?) => {
        $crate::export!(@ [] [$($loss),+]);
    };
    (@ [$($roll:ty),*] [$($loss:ty),*]) => {
        // Natively the crate is an ordinary library and exports nothing.
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::module;

            struct Exported;

            impl $crate::bindings::base::exports::rollcall::policy::describe::Guest for Exported {
                fn describe() -> $crate::Module {
                    module::enter();
                    module::describe(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), vec![
                        $(module::roll_policy::<$roll>(),)*
                        $(module::loss_classifier::<$loss>(),)*
                    ])
                }

                fn check_settings(policy: String, settings: String) -> Result<(), Vec<$crate::SettingsError>> {
                    module::enter();
                    $(if policy == <$roll as $crate::RollPolicy>::NAME {
                        return module::check(&settings, <$roll as $crate::RollPolicy>::check);
                    })*
                    $(if policy == <$loss as $crate::LossClassifier>::NAME {
                        return module::check(&settings, <$loss as $crate::LossClassifier>::check);
                    })*
                    Err(vec![module::no_such_policy(&policy)])
                }
            }
            $crate::bindings::base::export_describe!(Exported with_types_in $crate::bindings::base);

            $crate::export!(@roll $($roll),*);
            $crate::export!(@loss $($loss),*);
        };
    };
    (@roll) => {};
    (@roll $($roll:ty),+) => {
        impl $crate::bindings::roll::exports::rollcall::policy::roll::Guest for Exported {
            fn select(
                policy: String, settings: String, fleet: $crate::Fleet,
            ) -> Result<$crate::Selection, $crate::PolicyError> {
                module::enter();
                $(if policy == <$roll as $crate::RollPolicy>::NAME {
                    return module::answer(&settings, |settings| <$roll as $crate::RollPolicy>::select(settings, &fleet));
                })*
                Err($crate::PolicyError { message: module::no_such_policy(&policy).message })
            }
        }
        $crate::bindings::roll::export_roll!(Exported with_types_in $crate::bindings::roll);
    };
    (@loss) => {};
    (@loss $($loss:ty),+) => {
        impl $crate::bindings::loss::exports::rollcall::policy::loss::Guest for Exported {
            fn classify(
                policy: String, settings: String, evidence: $crate::Evidence,
            ) -> Result<$crate::Verdict, $crate::PolicyError> {
                module::enter();
                $(if policy == <$loss as $crate::LossClassifier>::NAME {
                    return module::answer(&settings, |settings| <$loss as $crate::LossClassifier>::classify(settings, &evidence));
                })*
                Err($crate::PolicyError { message: module::no_such_policy(&policy).message })
            }
        }
        $crate::bindings::loss::export_loss!(Exported with_types_in $crate::bindings::loss);
    };
}

/// First thing in every call: a panic tells its message to the host before the instance traps.
pub fn enter() {
    std::panic::set_hook(Box::new(|panic| crate::log::error(panic.to_string())));
}

pub fn describe(name: &str, version: &str, policies: Vec<Policy>) -> Module {
    Module { name: name.into(), version: version.into(), policies }
}

pub fn roll_policy<P: RollPolicy>() -> Policy {
    policy::<P::Settings>(P::NAME, Question::Roll, P::DOCS)
}

pub fn loss_classifier<P: LossClassifier>() -> Policy {
    policy::<P::Settings>(P::NAME, Question::Loss, P::DOCS)
}

fn policy<S: JsonSchema>(name: &str, question: Question, docs: &str) -> Policy {
    // The host refuses `$ref`, which keeps the cost of validation in proportion to the schema.
    let schema = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<S>();
    Policy {
        name: name.into(),
        question,
        docs: without_margin(docs),
        settings_schema: schema.as_value().to_string(),
    }
}

/// Doc comments that become text keep the space after their slashes.
fn without_margin(docs: &str) -> String {
    let has_margin = docs.lines().all(|line| line.is_empty() || line.starts_with(' '));
    let line = |line| if has_margin { str::strip_prefix(line, ' ').unwrap_or(line) } else { line };
    docs.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}

pub fn check<S: DeserializeOwned>(
    settings: &str,
    check: impl FnOnce(&S) -> Vec<SettingsError>,
) -> Result<(), Vec<SettingsError>> {
    let problems = match serde_json::from_str(settings) {
        Ok(settings) => check(&settings),
        Err(error) => vec![SettingsError { path: String::new(), message: error.to_string() }],
    };
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

pub fn answer<S: DeserializeOwned, A>(
    settings: &str,
    ask: impl FnOnce(S) -> Result<A, String>,
) -> Result<A, PolicyError> {
    serde_json::from_str(settings)
        .map_err(|error| format!("settings: {error}"))
        .and_then(ask)
        .map_err(|message| PolicyError { message })
}

pub fn no_such_policy(policy: &str) -> SettingsError {
    SettingsError { path: String::new(), message: format!("this module has no policy named {policy:?}") }
}
