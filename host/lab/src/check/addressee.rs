//! S24: a core is told only what concerns it, and an application has one core on a host.
//!
//! With several fleets, and several lives of each, what arrives has to reach the right core: the answer to a call the
//! life that made it, a pod the application whose label it has, a driver the application that it is the driver of.
//! The account is the world's own: for whom an input was, whose label a pod has, which driver is whose.

use fleet::event::{DriverView, Event, PodView};

use super::CoreId;
use crate::world::World;

impl World<'_> {
    /// A core is told this. `meant`: the life for which the input was that said it.
    pub(crate) fn check_addressee(&mut self, app: usize, core: CoreId, meant: Option<u64>, event: &Event) {
        let for_one = match event {
            Event::PodChanged(_)
            | Event::PodGone(_)
            | Event::Relisted(_)
            | Event::Heartbeat(_)
            | Event::DriverReported(_)
            | Event::NodeChanged(_)
            | Event::Answered { .. }
            | Event::Finished { .. } => true,
            Event::LeadershipGained { .. }
            | Event::LeadershipLost
            | Event::LeadershipConfirmed
            | Event::DriverChanged { .. }
            | Event::ViewStale
            | Event::ViewFresh
            | Event::HearingImpaired(_)
            | Event::SpecChanged { .. }
            | Event::Commanded { .. }
            | Event::Deadline => false,
        };
        let life = core.life;
        if for_one && meant != Some(life) {
            return self.object("S24", format!("what is meant for life {meant:?} is told to life {life}"));
        }
        if let Event::PodChanged(pod) | Event::PodGone(pod) = event
            && !self.concerns(app, pod)
        {
            return self
                .object("S24", format!("life {life} is told of {}, whose label is another's", pod.name));
        }
        if let Event::DriverChanged { driver: DriverView::Running { uid, .. }, .. } = event
            && uid != self.api.app(app).driver_uid()
        {
            self.object("S24", format!("life {life} is told of driver {uid}, which is another's"));
        }
    }

    fn concerns(&self, app: usize, pod: &PodView) -> bool {
        let of = self.cluster.app_of(&pod.uid);
        of.is_none_or(|of| of == app || self.api.app(of).shares_label(self.api.app(app)))
    }

    /// A core of this application begins on a host.
    pub(crate) fn check_begins(&mut self, at: usize, app: usize) {
        let host = &self.hosts[at];
        let rival = (0..self.apps.len()).find(|other| {
            *other != app
                && host.life_of(*other).is_some()
                && self.api.app(*other).shares_label(self.api.app(app))
        });
        let name = &self.apps[app].operator.spec.name;
        if let Some(rival) = rival {
            let message = format!("{name} begins as application {app}, beside {rival} with the same label");
            return self.object("S24", message);
        }
        // Applications are numbered in the order in which their drivers appeared.
        let newer = host.ended.iter().find(|ended| **ended > app && self.latest(**ended) == self.latest(app));
        if let Some(newer) = newer {
            let message = format!("{name} ends as application {newer}, for the earlier driver of {app}");
            self.object("S24", message);
        }
    }
}
