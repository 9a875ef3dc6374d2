//! A simulation of one Lease, the hosts that compete for it, and the requests in flight between them.

use super::*;

/// Ticks are 20 ms.
struct World {
    name: u64,
    ms: u64,
    wall_ms: i64,
    weather: String,
    lease: Option<(Lease, u64)>,
    writes: u64,
    settings: ElectionSettings,
    /// Each with the time until which it is frozen.
    hosts: Vec<(Election, u64)>,
    leader: Option<usize>,
    /// When it arrives, from or to which host.
    calls: Vec<(u64, usize, ElectionAction)>,
    answers: Vec<(u64, usize, ElectionEvent)>,
    seed: Seed,
    log: Vec<String>,
}

impl World {
    fn new(settings: ElectionSettings, weather: &str, seed: u64) -> World {
        World {
            name: seed,
            ms: 0,
            wall_ms: 1_000_000,
            weather: weather.to_owned(),
            lease: None,
            writes: 0,
            settings,
            hosts: Vec::new(),
            leader: None,
            calls: Vec::new(),
            answers: Vec::new(),
            seed: Seed::new(seed),
            log: Vec::new(),
        }
    }

    fn start(&mut self) {
        let identity = Identity::new("me", self.hosts.len() as u128);
        self.hosts.push((Election::new(self.settings, identity, Seed::new(self.seed.draw())), 0));
    }

    /// Every host's clock has its own origin.
    fn now(&self, host: usize) -> Now {
        Now { instant: Instant::from_ms(self.ms + 977 * host as u64), wall_ms: self.wall_ms }
    }

    fn put(&mut self, lease: Lease) {
        self.writes += 1;
        self.lease = Some((lease, self.writes));
    }

    fn tick(&mut self) {
        self.ms += 20;
        self.wall_ms += 20;
        let calls: Vec<_> = self.calls.extract_if(.., |call| call.0 <= self.ms).collect();
        calls.into_iter().for_each(|(_, host, call)| self.serve(host, call));
        let awake = |host: usize| self.hosts[host].1 <= self.ms;
        let answers = self.answers.extract_if(.., |answer| answer.0 <= self.ms && awake(answer.1));
        let mut events: Vec<_> = answers.map(|(_, host, event)| (host, event)).collect();
        let due =
            |host: &usize| self.hosts[*host].0.deadline().is_some_and(|at| at <= self.now(*host).instant);
        let hosts = (0..self.hosts.len()).filter(|host| awake(*host) && due(host));
        events.extend(hosts.map(|host| (host, ElectionEvent::Deadline)));
        events.into_iter().for_each(|(host, event)| self.step(host, event));
        // Includes frozen hosts.
        let leads = |host: &usize| self.hosts[*host].0.is_leader(self.now(*host).instant);
        let leaders: Vec<_> = (0..self.hosts.len()).filter(leads).collect();
        assert!(leaders.len() <= 1, "{leaders:?} lead at {} ms, seed {}", self.ms, self.name);
        let leader = leaders.first().copied();
        if self.leader.is_some() && leader.is_none() {
            self.log.push(format!("{} over", self.ms / 1000));
        }
        self.leader = leader;
    }

    fn step(&mut self, host: usize, event: ElectionEvent) {
        let now = self.now(host);
        let mut ended = self.hosts[host].0.deadline().is_none();
        let releases = event == ElectionEvent::Release;
        let actions = self.hosts[host].0.step(event, now);
        // A host that stopped because it was late may still have a Lease to release.
        ended &= !releases || actions.is_empty();
        for action in actions {
            assert!(!ended, "{action:?} after the end");
            match action {
                ElectionAction::Lead { .. } => self.log.push(format!("{} lead", self.ms / 1000)),
                ElectionAction::Affirm => self.log.push(format!("{} affirm", self.ms / 1000)),
                ElectionAction::Stop(cause) => {
                    ended = true;
                    self.log.push(format!("{} {cause:?}", self.ms / 1000));
                }
                ElectionAction::ReadLease { .. } | ElectionAction::WriteLease { .. } => {
                    let delay_ms = self.delay_ms().filter(|_| self.weather != "cut");
                    self.calls.extend(delay_ms.map(|ms| (self.ms + ms, host, action)));
                }
            }
        }
        let deadline = self.hosts[host].0.deadline();
        assert_eq!(ended, deadline.is_none());
        assert!(deadline.is_none_or(|at| at > now.instant), "a hot loop");
    }

    /// The API server.
    fn serve(&mut self, host: usize, call: ElectionAction) {
        let dice = if self.weather == "storm" { self.seed.below(100) } else { 50 };
        let there = self.lease.as_ref().map(|(_, number)| version(*number));
        let (request, mut outcome) = match call {
            ElectionAction::ReadLease { request } => match self.lease.clone() {
                Some((lease, number)) => (request, ElectionOutcome::Read(lease, version(number))),
                None => (request, ElectionOutcome::NotFound),
            },
            ElectionAction::WriteLease { request, lease, over } => {
                let outcome = match self.weather.as_str() {
                    "lossy" => ElectionOutcome::Unknown,
                    "forbid" => ElectionOutcome::Forbidden,
                    "throttle" => ElectionOutcome::Throttled { after_ms: Some(5_000) },
                    _ if dice < 3 => ElectionOutcome::Throttled { after_ms: None },
                    _ if over == there => ElectionOutcome::Written(version(self.writes + 1)),
                    _ if over.is_none() => ElectionOutcome::AlreadyExists,
                    _ if there.is_none() => ElectionOutcome::NotFound,
                    _ => ElectionOutcome::Conflict,
                };
                if matches!(outcome, ElectionOutcome::Written(_)) {
                    self.put(lease);
                }
                // A client that repeats a request whose answer was lost gets a conflict with its own write.
                match (self.weather.as_str(), dice) {
                    ("doubt", _) => (request, ElectionOutcome::Unknown),
                    ("repeat", _) | ("storm", 90..) => (request, ElectionOutcome::Conflict),
                    _ => (request, outcome),
                }
            }
            ElectionAction::Lead { .. } | ElectionAction::Affirm | ElectionAction::Stop(_) => {
                unreachable!("not a call")
            }
        };
        if (80..90).contains(&dice) {
            outcome = ElectionOutcome::Unknown;
        }
        let delay_ms = match self.weather.as_str() {
            "mute" => None,
            "slow" => Some(11_000),
            "late" => Some(4_000),
            _ => self.delay_ms(),
        };
        let event = ElectionEvent::Finished { request, outcome };
        self.answers.extend(delay_ms.map(|ms| (self.ms + ms, host, event)));
    }

    /// How long a message is in flight. `None`: it never arrives.
    fn delay_ms(&mut self) -> Option<u64> {
        match if self.weather == "storm" { self.seed.below(100) } else { 99 } {
            0..8 => None,
            8..30 => Some(self.seed.below(4_000)),
            _ => Some(self.seed.below(50)),
        }
    }
}

fn version(number: u64) -> Version {
    Version(number.to_string().into())
}

/// `script`: commands, each at a second. The result: what happened, in which second, and who holds the Lease
/// after how many transitions.
#[track_caller]
fn check(script: &str, expected: &str) {
    let mut world = World::new(ElectionSettings::default(), "calm", 1);
    world.start();
    for line in script.split(", ") {
        let (second, order) = line.split_once(' ').unwrap();
        let at_ms = second.parse::<u64>().unwrap() * 1000;
        while world.ms < at_ms {
            world.tick();
        }
        let held_by = |holder: &str| Lease { holder: holder.into(), duration_s: 15, ..Lease::default() };
        match order {
            "other" => world.put(held_by("other")),
            "brief" => world.put(Lease { duration_s: 5, ..held_by("other") }),
            "unset" => world.put(Lease { duration_s: 0, ..held_by("other") }),
            "none" => world.put(held_by("")),
            "twin" => world.put(held_by(&Identity::new("me", 0).0)),
            "touch" => world.put(world.lease.clone().unwrap().0),
            "delete" => world.lease = None,
            "future" => world.wall_ms += 86_400_000,
            "past" => world.wall_ms -= 86_400_000,
            "freeze" => world.hosts[0].1 = at_ms + 30_000,
            "release" => world.step(0, ElectionEvent::Release),
            "suspect" => world.step(0, ElectionEvent::Doubt),
            weather => world.weather = weather.to_owned(),
        }
    }
    let (lease, _) = world.lease.unwrap_or_default();
    let holder = lease.holder.split('_').next().filter(|name| !name.is_empty()).unwrap_or("none");
    world.log.push(format!("{holder} {}", lease.transitions));
    assert_eq!(world.log.join(", "), expected, "{script}");
}

#[test]
fn it_takes_what_is_free() {
    check("60 end", "0 lead, me 0");
    check("0 none, 60 end", "0 lead, me 1");
}

#[test]
fn it_waits_for_a_lease_duration_of_its_own_clock() {
    check("0 other, 10 other, 20 other, 30 other, 40 other, 50 end", "other 0");
    check("0 other, 15 end", "other 0");
    check("0 other, 60 end", "15 lead, me 1");
    check("0 other, 5 other, 60 end", "22 lead, me 1");
    check("0 brief, 60 end", "6 lead, me 1");
    check("0 unset, 60 end", "15 lead, me 1");
    check("0 other, 10 touch, 60 end", "27 lead, me 1");
    check("0 other, 4 future, 8 past, 12 past, 60 end", "15 lead, me 1");
    // An earlier process of this host, or another process that was given the same name.
    check("0 twin, 60 end", "15 lead, me 1");
    check("0 twin, 10 lossy, 60 end", "me 0");
}

#[test]
fn it_renews_whatever_the_wall_clock_says() {
    check("3 future, 7 past, 8 past, 90 past, 120 end", "0 lead, me 0");
    check("10 touch, 60 end", "0 lead, me 0");
    check("5 cut, 9 calm, 60 end", "0 lead, me 0");
    check("5 lossy, 9 calm, 60 end", "0 lead, me 0");
    check("5 throttle, 7 calm, 60 end", "0 lead, me 0");
    check("0 forbid, 20 calm, 60 end", "21 lead, me 0");
}

#[test]
fn it_stops_when_it_reads_anything_but_its_own() {
    check("10 other, 60 end", "0 lead, 11 Deposed, 11 over, other 0");
    check("10 twin, 60 end", "0 lead, 11 Deposed, 11 over, me 0");
    check("10 none, 60 end", "0 lead, 11 Deposed, 11 over, none 0");
    check("10 delete, 60 end", "0 lead, 11 Deposed, 11 over, none 0");
}

#[test]
fn it_stops_when_it_cannot_renew() {
    check("5 cut, 60 end", "0 lead, 14 Late, 14 over, me 0");
    check("5 mute, 60 end", "0 lead, 14 Late, 14 over, me 0");
    check("5 slow, 60 end", "0 lead, 14 Late, 14 over, me 0");
    check("5 lossy, 60 end", "0 lead, 14 Late, 14 over, me 0");
    check("5 forbid, 60 end", "0 lead, 14 Late, 14 over, me 0");
    check("10 freeze, 60 end", "0 lead, 19 over, 40 Late, me 0");
    check("10 freeze, 15 other, 60 end", "0 lead, 19 over, 40 Late, other 0");
}

#[test]
fn it_looks_what_became_of_a_write() {
    check("0 doubt, 60 end", "0 lead, me 0");
    check("0 repeat, 60 end", "2 lead, me 0");
    check("0 lossy, 20 calm, 60 end", "20 lead, me 0");
    // Reads are given up before they are answered, but a write that was applied counts.
    check("5 late, 60 end", "0 lead, me 0");
}

#[test]
fn it_releases_what_is_its_own() {
    check("10 release, 60 end", "0 lead, 10 over, 10 Released, none 0");
    check("10 other, 10 release, 60 end", "0 lead, 10 over, 10 Released, other 0");
    check("10 doubt, 10 release, 60 end", "0 lead, 10 over, 10 Released, none 0");
    check("10 cut, 10 release, 60 end", "0 lead, 10 over, 12 Released, me 0");
    check("5 cut, 9 calm, 9 release, 60 end", "0 lead, 9 over, 10 Released, none 0");
    check("0 other, 5 release, 60 end", "5 Released, other 0");
    check("0 none, 0 lossy, 1 calm, 1 release, 60 end", "1 Released, none 0");
    check("10 release, 11 release, 60 end", "0 lead, 10 over, 10 Released, none 0");
}

#[test]
fn what_is_doubted_is_read_at_once() {
    check("10 suspect, 60 end", "0 lead, 10 affirm, me 0");
    check("10 suspect, 10 suspect, 60 end", "0 lead, 12 affirm, me 0");
    check("10 other, 10 suspect, 60 end", "0 lead, 10 Deposed, 10 over, other 0");
    check("10 delete, 10 suspect, 60 end", "0 lead, 10 Deposed, 10 over, none 0");
    check("10 late, 11 suspect, 30 calm, 60 end", "0 lead, 15 affirm, me 0");
    check("5 cut, 6 suspect, 60 end", "0 lead, 14 Late, 14 over, me 0");
    check("0 other, 5 suspect, 60 end", "15 lead, me 1");
    check("10 release, 10 suspect, 60 end", "0 lead, 10 over, 10 Released, none 0");
}

/// The next leader need not wait until the Lease expires.
#[test]
fn a_late_one_gives_back_what_is_still_its_own() {
    check("10 freeze, 41 release, 60 end", "0 lead, 19 over, 40 Late, 41 Released, none 0");
    check("10 freeze, 15 other, 41 release, 60 end", "0 lead, 19 over, 40 Late, 41 Released, other 0");
    check("5 cut, 20 release, 60 end", "0 lead, 14 Late, 14 over, 22 Released, me 0");
    check("10 other, 20 release, 60 end", "0 lead, 11 Deposed, 11 over, other 0");
}

/// To the millisecond, and with a write of the version that was observed for that long.
#[test]
fn another_is_dead_once_it_was_unchanged_for_its_duration() {
    let at = |ms| Now { instant: Instant::from_ms(ms), wall_ms: 0 };
    let theirs = Lease { holder: "other".into(), duration_s: 15, ..Lease::default() };
    let mut election = Election::new(ElectionSettings::default(), Identity::new("me", 0), Seed::new(1));
    let mut read = |request, asked_ms, answered_ms| {
        election.step(ElectionEvent::Deadline, at(asked_ms));
        let outcome = ElectionOutcome::Read(theirs.clone(), version(7));
        election.step(ElectionEvent::Finished { request: ActionId(request), outcome }, at(answered_ms))
    };
    assert_eq!(read(1, 0, 1_000), []);
    assert_eq!(read(2, 13_000, 15_999), [ElectionAction::ReadLease { request: ActionId(3) }]);
    match read(3, 15_999, 16_000).as_slice() {
        [ElectionAction::WriteLease { over, .. }] => assert_eq!(over, &Some(version(7))),
        other => panic!("{other:?}"),
    }
}

/// However late the answer is, the lease counts from when the request was sent.
#[test]
fn an_answer_does_not_prolong_what_was_asked_for() {
    let at = |ms| Now { instant: Instant::from_ms(ms), wall_ms: 0 };
    let finished = |request, outcome| ElectionEvent::Finished { request: ActionId(request), outcome };
    let mut election = Election::new(ElectionSettings::default(), Identity::new("me", 0), Seed::new(1));
    election.step(ElectionEvent::Deadline, at(0));
    election.step(finished(1, ElectionOutcome::NotFound), at(1_000));
    // Given up at 4.3 s; the read that follows gets no answer, either.
    election.step(ElectionEvent::Deadline, at(4_500));
    assert!(!election.is_leader(Instant::from_ms(8_000)));
    let led = election.step(finished(2, ElectionOutcome::Written(version(1))), at(8_000));
    assert_eq!(led.first(), Some(&ElectionAction::Lead { term: 1 }));
    assert!(election.is_leader(Instant::from_ms(10_999)) && !election.is_leader(Instant::from_ms(11_000)));
    // The answer to the renewal arrives at 11 s, but so does the deadline.
    let late = election.step(finished(4, ElectionOutcome::Written(version(2))), at(11_000));
    assert_eq!(late, [ElectionAction::Stop(StopCause::Late)]);
    let read = ElectionAction::ReadLease { request: ActionId(5) };
    assert_eq!(election.step(ElectionEvent::Release, at(11_000)), [read], "it may still be ours");
}

/// Even if the wall clock stands still.
#[test]
fn every_write_is_told_from_the_one_before() {
    let mut election = Election::new(ElectionSettings::default(), Identity::new("me", 0), Seed::new(1));
    let mut finished = |request, outcome, ms| {
        let event = ElectionEvent::Finished { request: ActionId(request), outcome };
        let actions = election.step(event, Now { instant: Instant::from_ms(ms), wall_ms: 0 });
        let leads = election.is_leader(Instant::from_ms(10_000));
        match actions.into_iter().next_back() {
            Some(ElectionAction::WriteLease { lease, .. }) => (leads, lease),
            _ => (leads, Lease::default()),
        }
    };
    finished(0, ElectionOutcome::Unknown, 0);
    let (_, first) = finished(1, ElectionOutcome::NotFound, 0);
    finished(2, ElectionOutcome::Written(version(1)), 0);
    finished(0, ElectionOutcome::Unknown, 3_000);
    finished(3, ElectionOutcome::Unknown, 3_000);
    let (leads, _) = finished(4, ElectionOutcome::Read(first, version(1)), 3_000);
    assert!(!leads, "the second was lost");
    let (_, third) = finished(0, ElectionOutcome::Unknown, 6_000);
    finished(5, ElectionOutcome::Unknown, 6_000);
    let (leads, _) = finished(6, ElectionOutcome::Read(third, version(2)), 6_000);
    assert!(leads, "the third was not");
}

#[test]
fn settings_are_checked() {
    let check = ElectionSettings::check;
    assert_eq!(check(15, 10_000, 2_000), Ok(ElectionSettings::default()));
    assert!(check(10, 10_000, 2_000).unwrap_err().starts_with("leaseDuration "));
    assert!(check(u32::MAX, 10_000, 2_000).unwrap_err().starts_with("leaseDuration "));
    assert!(check(15, 2_400, 2_000).unwrap_err().starts_with("renewDeadline "));
    assert!(check(15, 10_000, u64::MAX).unwrap_err().starts_with("renewDeadline "));
    assert!(check(15, 10_000, 0).unwrap_err().starts_with("retryPeriod "));
}

/// Answers and requests are lost and late, hosts freeze, crash, restart and release, wall clocks jump: there
/// are never two leaders (`tick` checks). Then the faults stop: soon there is one leader, and it stays.
#[test]
fn two_never_lead_at_once_and_one_does_in_the_end() {
    // With hardly any margin between the renew deadline and the lease, so that no test passes by luck.
    let settings = ElectionSettings::check(3, 2_970, 400).unwrap();
    let mut terms = 0;
    for seed in 0..2_000 {
        let mut world = World::new(settings, "storm", seed);
        for _ in 0..1_000 {
            let alive = |host: &(Election, u64)| host.0.deadline().is_some() && host.1 < u64::MAX;
            let mut hosts: Vec<_> =
                (0..world.hosts.len()).filter(|host| alive(&world.hosts[*host])).collect();
            while hosts.len() < 2 {
                hosts.push(world.hosts.len());
                world.start();
            }
            let host = hosts[usize::from(world.seed.below(2) == 1)];
            match world.seed.below(750) {
                0 => world.hosts[host].1 = world.ms + world.seed.below(6_000),
                1 => world.hosts[host].1 = u64::MAX,
                2 if world.hosts[host].1 <= world.ms => world.step(host, ElectionEvent::Release),
                3 => world.wall_ms -= 1_000,
                _ => {}
            }
            world.tick();
        }
        world.weather = "calm".to_owned();
        let awake = world.hosts.iter_mut().filter(|host| host.1 < u64::MAX);
        awake.for_each(|host| host.1 = 0);
        // A host that stops now is not replaced, so start these two.
        (0..2).for_each(|_| world.start());
        // Messages that are still in flight take 4 s; then a lease of 3 s, and a read every half second.
        (0..400).for_each(|_| world.tick());
        let leader = world.leader;
        assert!(leader.is_some(), "no host leads with seed {seed}: {:?}", world.log);
        for _ in 0..200 {
            world.tick();
            assert_eq!(world.leader, leader, "seed {seed}");
        }
        terms += world.log.iter().filter(|line| line.ends_with("lead")).count();
    }
    assert!(terms > 4_000, "{terms} terms: too few to prove anything");
}

#[test]
fn of_those_that_start_together_one_leads() {
    for seed in 0..100 {
        let mut world = World::new(ElectionSettings::default(), "calm", seed);
        (0..5).for_each(|_| world.start());
        (0..3_000).for_each(|_| world.tick());
        assert_eq!((world.log.as_slice(), world.leader.is_some()), (&["0 lead".to_owned()][..], true));
        let leader = world.lease.as_ref().map(|(lease, _)| &*lease.holder);
        for (host, (election, _)) in world.hosts.iter().enumerate() {
            assert_eq!(election.holder(), leader.filter(|_| world.leader != Some(host)), "{host}");
        }
    }
}
