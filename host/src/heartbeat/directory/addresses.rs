//! Which fleets have pods at an address. Every connection and every report asks, so a look-up takes constant time.
//! About 100 bytes for each pod in the view.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

/// Canonical addresses. Pods on the host network have the address of their node.
#[derive(Debug, Default)]
pub struct Addresses(HashMap<IpAddr, Vec<Pods>>);

/// The pods of one fleet at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    pub fleet: Arc<str>,
    pub count: usize,
}

impl Addresses {
    pub fn at(&self, ip: IpAddr) -> &[Pods] {
        self.0.get(&ip).map_or(&[], Vec::as_slice)
    }

    /// A pod of the fleet has moved from one address to another.
    pub fn moved(&mut self, fleet: &Arc<str>, from: Option<IpAddr>, to: Option<IpAddr>) {
        if from == to {
            return;
        }
        if let Some(ip) = to {
            let here = self.0.entry(ip).or_default();
            match here.iter_mut().find(|pods| pods.fleet == *fleet) {
                Some(pods) => pods.count += 1,
                None => here.push(Pods { fleet: Arc::clone(fleet), count: 1 }),
            }
        }
        if let Some(ip) = from
            && let Entry::Occupied(mut here) = self.0.entry(ip)
        {
            if let Some(pods) = here.get_mut().iter_mut().find(|pods| pods.fleet == *fleet) {
                pods.count = pods.count.saturating_sub(1);
            }
            here.get_mut().retain(|pods| pods.count > 0);
            if here.get().is_empty() {
                here.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_come_move_and_go() {
        let [one, two]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let [a, b]: [Arc<str>; 2] = ["a", "b"].map(Arc::from);
        let mut addresses = Addresses::default();
        let at = |addresses: &Addresses, ip| {
            addresses.at(ip).iter().map(|pods| format!("{} {}", pods.fleet, pods.count)).collect::<Vec<_>>()
        };
        addresses.moved(&a, None, Some(one));
        addresses.moved(&a, None, Some(one));
        addresses.moved(&b, None, Some(one));
        addresses.moved(&a, Some(one), Some(one));
        assert_eq!(at(&addresses, one), ["a 2", "b 1"]);
        addresses.moved(&a, Some(one), Some(two));
        assert_eq!(
            (at(&addresses, one), at(&addresses, two)),
            (vec!["a 1".into(), "b 1".into()], vec!["a 1".into()])
        );
        addresses.moved(&a, Some(one), None);
        addresses.moved(&b, Some(one), None);
        addresses.moved(&a, Some(two), None);
        addresses.moved(&a, Some(two), None);
        assert!(addresses.0.is_empty());
    }
}
