//! Random histories of one branch: pushes, rewrites, kills and changed settings, through the plan and what applying it does.

use std::collections::HashMap;

use super::*;
use crate::model::key::Content;
use crate::plan::chain::chain;

/// A commit of the branch. The nth commit of a line descends from all before it there, and from nothing else.
type Commit = (u8, u8);

fn id((line, number): Commit) -> CommitId {
    let mut bytes = [1; 20];
    (bytes[0], bytes[1]) = (line, number);
    CommitId::from_bytes(bytes)
}

fn descends(commit: CommitId, base: CommitId) -> bool {
    let ([line, number, ..], [of, before, ..]) = (commit.as_bytes(), base.as_bytes());
    line == of && number > before
}

#[derive(Debug, Clone)]
enum Step {
    /// So many commits are pushed, of this size each.
    Push {
        commits: u8,
        bytes: u64,
    },
    /// The branch is replaced by another history.
    Rewrite,
    /// The branch is set back by so many commits.
    SetBack(u8),
    Setting(Crossing, ArchiveFormat),
    /// `MAX_INCREMENTS`.
    Most(usize),
    Republish,
}

fn any_step() -> impl Strategy<Value = Step> {
    let push = (1_u8..4, 1_u64..200_000).prop_map(|(commits, bytes)| Step::Push { commits, bytes });
    let setting =
        (select(&[Crossing::Whole, Crossing::Incremental, Crossing::Incremental][..]), select(&ArchiveFormat::ALL[..]));
    prop_oneof![
        20 => push,
        1 => Just(Step::Rewrite),
        1 => (1_u8..4).prop_map(Step::SetBack),
        1 => setting.prop_map(|(crossing, format)| Step::Setting(crossing, format)),
        1 => (1_usize..9).prop_map(Step::Most),
        1 => Just(Step::Republish),
    ]
}

struct World {
    head: Commit,
    lines: u8,
    /// What a commit's own objects take.
    sizes: HashMap<CommitId, u64>,
    /// Everything that the branch ever was at when a pass looked.
    published: HashSet<CommitId>,
    held: Vec<HeldObject>,
    now: u64,
    policy: Policy<'static>,
}

const WHOLE_BYTES: u64 = 2 << 20;

impl World {
    fn new() -> Self {
        let policy =
            Policy { format: FormatChoice::Only(ArchiveFormat::Zip), crossing: Crossing::Incremental, ..POLICY };
        let (head, sizes, published, held) = ((0, 1), HashMap::new(), HashSet::new(), vec![]);
        Self { head, lines: 0, sizes, published, held, now: 1, policy }
    }

    fn takes(&mut self, step: &Step) {
        self.policy.republish = &NOTHING;
        match step {
            Step::Push { commits, bytes } => {
                for _ in 0..*commits {
                    self.head.1 = self.head.1.saturating_add(1);
                    self.sizes.insert(id(self.head), *bytes);
                }
            }
            Step::Rewrite => {
                self.lines += 1;
                self.head = (self.lines, 1);
            }
            Step::SetBack(by) => self.head.1 = self.head.1.saturating_sub(*by).max(1),
            Step::Setting(crossing, format) => {
                (self.policy.crossing, self.policy.format) = (*crossing, FormatChoice::Only(*format));
            }
            Step::Most(most) => self.policy.max_increments = NonZeroUsize::new(*most).unwrap(),
            Step::Republish => self.policy.republish = &SOME,
        }
    }

    fn plan(&self) -> Plan {
        let desired = Desired { targets: vec![(target("a"), Head::At(id(self.head)))], refused: vec![] };
        plan(&desired, &self.held, self.policy).unwrap()
    }

    fn put(&mut self, key: &str, bytes: u64) {
        self.held.retain(|object| object.key != key);
        self.held.push(HeldObject { bytes, ..held_under(key.to_owned(), self.now) });
    }

    /// Carries the plan out, up to this many requests. Several can be within one second.
    fn apply(&mut self, plan: &Plan, mut requests: usize) {
        self.published.insert(id(self.head));
        let mut may = || {
            requests = requests.saturating_sub(1);
            requests > 0
        };
        for action in &plan.actions {
            let keys: Vec<String> = match action {
                Action::Publish(publish) => {
                    if !may() {
                        return;
                    }
                    let sent = match &publish.how {
                        How::Increment(increment) if descends(publish.commit, increment.base) => {
                            let new = self.sizes.iter().filter(|(commit, _)| {
                                descends(**commit, increment.base) && !descends(**commit, publish.commit)
                            });
                            let bytes: u64 = new.map(|(_, bytes)| bytes).sum();
                            (bytes <= increment.limit_bytes).then(|| (increment.key.clone(), bytes))
                        }
                        _ => None,
                    };
                    let (key, bytes) = sent.unwrap_or((publish.key.clone(), WHOLE_BYTES));
                    self.put(&key, bytes);
                    publish.replaced_by(&key).cloned().collect()
                }
                Action::Sweep(sweep) => sweep.keys.clone(),
                Action::Retire(_) => panic!("it is wanted"),
            };
            for key in keys {
                if !may() {
                    return;
                }
                self.held.retain(|object| object.key != key);
            }
        }
    }

    fn restored(&self) -> Option<CommitId> {
        let held: Vec<_> = self.held.iter().collect();
        let chain = chain(&held)?;
        let mut at: CommitId = chain.whole.name.commit.parse().unwrap();
        for increment in &chain.increments {
            let Content::Increment { base } = increment.name.content else { panic!("{increment:?}") };
            assert_eq!(base, at, "each is on top of the one before");
            at = increment.name.commit.parse().unwrap();
        }
        Some(at)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn after_any_kill_the_bucket_restores_to_a_published_commit(
        steps in proptest::collection::vec((any_step(), proptest::option::weighted(0.3, 0_usize..12), 0_u64..3), 1..60)
    ) {
        let mut world = World::new();
        for (step, killed_after, wait) in steps {
            world.takes(&step);
            world.now += wait;
            let plan = world.plan();
            let had_one = world.restored().is_some();
            world.apply(&plan, killed_after.unwrap_or(usize::MAX));
            match world.restored() {
                Some(commit) => prop_assert!(world.published.contains(&commit)),
                None => prop_assert!(!had_one, "it had one before"),
            }
            if killed_after.is_none() {
                // Within one second, S3's times do not tell what came last: then one more pass may be needed.
                world.policy.republish = &NOTHING;
                for _ in 0..2 {
                    world.now += 1;
                    let plan = world.plan();
                    world.apply(&plan, usize::MAX);
                }
                let plan = world.plan();
                prop_assert!(plan.actions.is_empty(), "{:?}", plan.actions);
                prop_assert_eq!(world.restored(), Some(id(world.head)));
                prop_assert!(world.held.len() <= 9, "{}", world.held.len());
                if world.policy.crossing == Crossing::Whole {
                    prop_assert_eq!(world.held.len(), 1);
                }
                let increments: u64 = world.held.iter().filter(|object| object.name.content.format().is_none()).map(|object| object.bytes).sum();
                prop_assert!(increments <= WHOLE_BYTES / 2);
            }
        }
    }

    #[test]
    fn a_later_second_needs_no_second_pass(steps in proptest::collection::vec(any_step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.takes(&step);
            world.now += 2;
            let plan = world.plan();
            world.apply(&plan, usize::MAX);
            world.policy.republish = &NOTHING;
            prop_assert!(world.plan().actions.is_empty());
            prop_assert_eq!(world.restored(), Some(id(world.head)));
        }
    }

    #[test]
    fn the_order_of_a_listing_does_not_matter(steps in proptest::collection::vec((any_step(), 0_usize..6), 1..30), turn in 0_usize..9) {
        let mut world = World::new();
        for (step, requests) in steps {
            world.takes(&step);
            world.now += 1;
            let expected = world.plan();
            let by = turn % world.held.len().max(1);
            world.held.rotate_left(by);
            prop_assert_eq!(&world.plan(), &expected);
            world.apply(&expected, requests);
        }
    }
}

#[test]
fn a_commit_on_top_crosses_as_an_increment_and_says_on_which() {
    let mut world = World::new();
    world.apply(&world.plan(), usize::MAX);
    let whole = world.held.clone();
    world.takes(&Step::Push { commits: 1, bytes: 1_000 });
    world.now += 1;
    let plan = world.plan();
    let publish = only_publish(&plan);
    let How::Increment(increment) = &publish.how else { panic!("{:?}", publish.how) };
    assert_eq!((increment.base, increment.supersedes.len(), increment.takes_in_earlier), (id((0, 1)), 0, false));
    assert_eq!(
        publish.how.to_string(),
        format!("crosses as an increment on {}", short_commit(&id((0, 1)).to_string()))
    );
    world.apply(&plan, usize::MAX);
    assert!(world.held.contains(&whole[0]), "what it is on top of stays");
}

#[test]
fn a_ninth_increment_takes_in_the_last_ones() {
    let mut world = World::new();
    world.apply(&world.plan(), usize::MAX);
    for bytes in [1_000, 1_000, 1_000, 1_000, 9_000, 400, 300, 200] {
        world.takes(&Step::Push { commits: 1, bytes });
        world.now += 1;
        world.apply(&world.plan(), usize::MAX);
    }
    assert_eq!(world.held.len(), 9);
    world.takes(&Step::Push { commits: 1, bytes: 1_000 });
    let plan = world.plan();
    let How::Increment(increment) = &only_publish(&plan).how else { panic!("{plan:?}") };
    assert_eq!((increment.base, increment.supersedes.len(), increment.takes_in_earlier), (id((0, 6)), 3, true));
}

#[test]
fn a_lower_limit_holds_from_the_next_increment_on() {
    let mut world = World::new();
    world.apply(&world.plan(), usize::MAX);
    for most in [8, 8, 8, 8, 8, 8, 3, 3, 1] {
        world.takes(&Step::Most(most));
        world.takes(&Step::Push { commits: 1, bytes: 100_000 >> world.head.1 });
        world.now += 1;
        world.apply(&world.plan(), usize::MAX);
        assert!(world.held.len() <= 1 + most, "{} of {most}", world.held.len());
    }
}

/// Then what is written on top of a whole object is older than that, and does not count.
#[test]
fn a_clock_of_s3_that_was_set_back_keeps_no_commit_from_crossing() {
    // A pass for each commit, and two.
    for passes in [1, 2] {
        let mut world = World::new();
        world.now = 10_000;
        world.apply(&world.plan(), usize::MAX);
        world.now = 1_000;
        for _ in 0..2 {
            world.takes(&Step::Push { commits: 1, bytes: 1_000 });
            for _ in 0..passes {
                world.now += 1;
                world.apply(&world.plan(), usize::MAX);
            }
        }
        assert_eq!(world.restored(), Some(id(world.head)));
        assert!(world.plan().actions.is_empty(), "{:?}", world.plan());
    }
}

#[test]
fn what_cannot_cross_as_an_increment_crosses_whole_and_says_why() {
    let of = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        world.apply(&world.plan(), usize::MAX);
        for _ in 0..2 {
            world.takes(&Step::Push { commits: 1, bytes: 400_000 });
            world.now += 1;
            world.apply(&world.plan(), usize::MAX);
        }
        world.takes(&Step::Push { commits: 1, bytes: 1_000 });
        change(&mut world);
        let plan = world.plan();
        only_publish(&plan).how.clone()
    };
    assert!(matches!(of(&|_| {}), How::Increment(_)));
    assert_eq!(of(&|world| world.policy.crossing = Crossing::Whole), How::Whole(WhyWhole::Setting));
    assert_eq!(of(&|world| world.head.1 -= 2), How::Whole(WhyWhole::SetBack));
    assert_eq!(of(&|world| world.held[0].bytes = LEAST_BASE_BYTES - 1), How::Whole(WhyWhole::SmallBase));
    assert_eq!(of(&|world| world.held[2].bytes = WHOLE_BYTES), How::Whole(WhyWhole::Share));
    assert_eq!(of(&|world| world.held.truncate(0)), How::Whole(WhyWhole::Reason));
    assert_eq!(of(&|world| drop(world.held.remove(0))), How::Whole(WhyWhole::Reason));
}

/// Who can write to the bucket can write any number of names.
#[test]
fn a_chain_ends_where_no_producer_would_go_on() {
    let destination = Destination { group: "far".into(), project: "p".into(), branch: "main".into() };
    let whole = held_under(key::encode(&destination, id((1, 0)), ArchiveFormat::Zip).unwrap(), 1);
    let next = |n: u8| key::encode_increment(&destination, id((1, n)), id((1, n + 1))).unwrap();
    let increments: Vec<_> = (0..200).map(|n| held_under(next(n), 1)).collect();
    let objects: Vec<_> = increments.iter().chain([&whole]).collect();
    let chain = chain(&objects).unwrap();
    assert_eq!((chain.increments.len(), chain.tip().key.clone()), (128, next(127)));
    assert_eq!(chain.objects().count(), 129);
}
