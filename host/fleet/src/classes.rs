//! Which class a driver belongs to, and what its fleet is called.
//!
//! *Intuition.* A class describes drivers by the labels and namespaces of their pods, and what the fleet of each should be.
//! Nothing is remembered: classes and drivers as they are now say which fleets there are, so an edit of a class, a driver
//! that comes while it is edited, or a list that comes late cannot leave a fleet behind that neither of them wants.
//!
//! *Rules.* Of several classes that match a driver, the most specific has it: one that lists namespaces before one that
//! does not; then the one with more requirements on labels; then the one whose name comes first. The order does not
//! depend on which class came first, because after a restart none did.

use std::collections::{BTreeMap, BTreeSet};

/// Which drivers a class matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// `metadata.name`.
    pub name: String,
    /// The namespaces of drivers. Empty: all.
    pub namespaces: Vec<String>,
    /// What is required of the labels of a driver's pod. Empty: nothing.
    pub requirements: Vec<Requirement>,
}

/// A requirement of a Kubernetes label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is required of its value.
    pub is: Is,
}

/// The operators of Kubernetes' `matchExpressions`; `matchLabels` is `In` with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Is {
    /// The label has one of these values.
    In(Vec<String>),
    /// The label has none of these values, or there is no such label.
    NotIn(Vec<String>),
    /// There is such a label.
    Exists,
    /// There is no such label.
    DoesNotExist,
}

/// The class of a driver, and those that match it as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The most specific class.
    pub class: &'a Class,
    /// The others, the most specific first.
    pub others: Vec<&'a Class>,
}

impl Class {
    /// Does it match a driver's pod in this namespace, with these labels?
    pub fn matches(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let here = self.namespaces.is_empty() || self.namespaces.iter().any(|one| one == namespace);
        here && self.requirements.iter().all(|requirement| requirement.holds(labels))
    }

    /// The smallest is the most specific.
    fn rank(&self) -> (bool, std::cmp::Reverse<usize>, &str) {
        (self.namespaces.is_empty(), std::cmp::Reverse(self.requirements.len()), &self.name)
    }

    /// Why this class has a driver that the other matches as well.
    pub fn advantage(&self, other: &Class) -> &'static str {
        if self.namespaces.is_empty() != other.namespaces.is_empty() {
            "lists namespaces"
        } else if self.requirements.len() != other.requirements.len() {
            "requires more of the labels"
        } else {
            "has the name that comes first"
        }
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.is {
            Is::In(values) => value.is_some_and(|value| values.contains(value)),
            Is::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Is::Exists => value.is_some(),
            Is::DoesNotExist => value.is_none(),
        }
    }
}

/// The class of a driver's pod. `None`: no class matches it.
pub fn choose<'a>(
    classes: impl IntoIterator<Item = &'a Class>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Option<Choice<'a>> {
    let matches = |class: &&Class| class.matches(namespace, labels);
    let mut all: Vec<&Class> = classes.into_iter().filter(matches).collect();
    all.sort_by(|one, other| one.rank().cmp(&other.rank()));
    let mut all = all.into_iter();
    Some(Choice { class: all.next()?, others: all.collect() })
}

/// A driver's pod, as classes see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub pod: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// It has not ended and is not being deleted.
    pub live: bool,
}

/// What documents have taken: a driver that a document names has no other fleet, and a name is used once.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Namespaces and names of drivers' pods.
    pub drivers: BTreeSet<(String, String)>,
    /// `NAMESPACE/NAME` of fleets.
    pub fleets: BTreeSet<String>,
}

/// A fleet that a driver has by its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made<'a> {
    /// The driver.
    pub driver: &'a Driver,
    /// `metadata.name` of the fleet; its namespace is the driver's.
    pub name: String,
    /// Its class, and those that match it as well.
    pub choice: Choice<'a>,
}

/// The fleets that there should be beside those of documents, in the order of the drivers: one for each driver that is
/// live, matches a class, and is named by no document.
pub fn fleets<'a>(
    classes: &'a [Class],
    drivers: impl IntoIterator<Item = &'a Driver>,
    taken: &Taken,
) -> Vec<Made<'a>> {
    let made = |driver: &'a Driver| {
        let named = (driver.namespace.clone(), driver.pod.clone());
        let name = fleet_name(&driver.pod);
        let key = format!("{}/{name}", driver.namespace);
        if !driver.live || taken.drivers.contains(&named) || taken.fleets.contains(&key) {
            return None;
        }
        let choice = choose(classes, &driver.namespace, &driver.labels)?;
        Some(Made { driver, name, choice })
    };
    drivers.into_iter().filter_map(made).collect()
}

/// Names of fleets are shorter than those of pods, because executors' pods are called NAME-exec-ID.
const NAME_MAX: usize = 46;
/// Hexadecimal digits that distinguish pods with the same beginning.
const HASH_DIGITS: usize = 8;

/// The fleet of a driver has the name of its pod. A name that is too long, or has a dot, is cut and gets a hash of itself.
pub fn fleet_name(pod: &str) -> String {
    if pod.len() <= NAME_MAX && !pod.contains('.') {
        return pod.to_owned();
    }
    // FNV-1a: the same name in every version of Rollcall.
    let hash = pod.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let kept: String =
        pod.chars().map(|c| if c == '.' { '-' } else { c }).take(NAME_MAX - HASH_DIGITS - 1).collect();
    let hash = format!("{hash:016x}");
    format!("{}-{}", kept.trim_end_matches('-'), &hash[..HASH_DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn class(name: &str, namespaces: &[&str], requirements: &[(&str, Is)]) -> Class {
        let requirement = |(key, is): &(&str, Is)| Requirement { key: (*key).to_owned(), is: is.clone() };
        Class {
            name: name.to_owned(),
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
            requirements: requirements.iter().map(requirement).collect(),
        }
    }

    fn one(value: &str) -> Is {
        Is::In(vec![value.to_owned()])
    }

    #[test]
    fn a_selector_is_kubernetes_own() {
        let pod = labels(&[("team", "etl"), ("tier", "gold")]);
        let holds = |key, is| class("a", &[], &[(key, is)]).matches("n", &pod);
        assert!(holds("team", one("etl")) && !holds("team", one("ml")) && !holds("absent", one("etl")));
        let not = |value: &str| Is::NotIn(vec![value.to_owned()]);
        assert!(!holds("team", not("etl")) && holds("team", not("ml")) && holds("absent", not("etl")));
        assert!(holds("tier", Is::Exists) && !holds("absent", Is::Exists));
        assert!(!holds("tier", Is::DoesNotExist) && holds("absent", Is::DoesNotExist));
        assert!(
            !class("a", &["m"], &[]).matches("n", &pod) && class("a", &["m", "n"], &[]).matches("n", &pod)
        );
    }

    #[test]
    fn the_most_specific_class_has_the_driver_in_every_order() {
        let team = || ("team", one("etl"));
        let classes = [
            class("everything", &[], &[]),
            class("team-and-tier", &[], &[team(), ("tier", Is::Exists)]),
            class("b-here", &["n"], &[]),
            class("a-here", &["n"], &[]),
            class("elsewhere", &["m"], &[team()]),
            class("team-here", &["n"], &[team()]),
        ];
        let pod = labels(&[("team", "etl"), ("tier", "gold")]);
        let expected = ["team-here", "a-here", "b-here", "team-and-tier", "everything"];
        let mut orders = vec![classes.to_vec()];
        orders.push(classes.iter().rev().cloned().collect());
        for order in &orders {
            let Choice { class, others } = choose(order, "n", &pod).expect("several match");
            let names: Vec<&str> = std::iter::once(class).chain(others).map(|one| &*one.name).collect();
            assert_eq!(names, expected);
        }
        assert_eq!(choose(&classes, "n", &labels(&[])).expect("two match").class.name, "a-here");
        assert_eq!(choose(&classes[1..2], "n", &labels(&[])), None);
        let advantages = [(5, 0), (1, 0), (3, 2)].map(|(has, other)| classes[has].advantage(&classes[other]));
        assert_eq!(
            advantages,
            ["lists namespaces", "requires more of the labels", "has the name that comes first"]
        );
    }

    #[test]
    fn a_live_driver_that_no_document_names_has_a_fleet() {
        let classes = [class("c", &[], &[("team", Is::Exists)])];
        let driver = |pod: &str, live| {
            let labels = labels(&[("team", "etl")]);
            Driver { namespace: "n".to_owned(), pod: pod.to_owned(), labels, live }
        };
        let other = Driver { labels: labels(&[]), ..driver("other", true) };
        let drivers = [driver("a", true), driver("b", false), driver("c", true), driver("d", true), other];
        let taken =
            Taken { drivers: [("n".to_owned(), "c".to_owned())].into(), fleets: ["n/d".to_owned()].into() };
        let names: Vec<String> =
            fleets(&classes, &drivers, &taken).into_iter().map(|made| made.name).collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn a_fleet_has_the_name_of_its_drivers_pod() {
        assert_eq!(fleet_name("etl-7f3a-driver"), "etl-7f3a-driver");
        let long = "a-very-long-name-of-an-application-that-spark-made-up-2026-driver";
        let (one, other) = (fleet_name(long), fleet_name(&format!("{long}-2")));
        assert_eq!(one, "a-very-long-name-of-an-application-th-0119b219");
        assert!(one.len() <= NAME_MAX && one != other);
        assert!(fleet_name("a.b").starts_with("a-b-") && fleet_name("a.b") != fleet_name("a-b"));
    }
}
