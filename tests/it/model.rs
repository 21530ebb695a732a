//! Random sequences of operations against a map, without a crash; a failing one is shrunk.

use std::time::Duration;

use oncelog::Durability;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof};
use proptest::proptest;

use crate::support::disk::SimDisk;
use crate::support::model::{Driver, Op};

fn op() -> impl Strategy<Value = Op> {
    let key = 0..12u64;
    prop_oneof![
        8 => key.clone().prop_map(Op::Claim),
        6 => (key.clone(), 0..7_000usize).prop_map(|(key, len)| Op::Complete(key, len)),
        2 => key.clone().prop_map(Op::Release),
        2 => (key.clone(), 0..400usize).prop_map(|(key, len)| Op::Checkpoint(key, len)),
        1 => key.clone().prop_map(Op::GiveUp),
        2 => key.clone().prop_map(Op::Forget),
        1 => key.prop_map(Op::ForgetOrganization),
        1 => Just(Op::Sync),
        1 => (0..40_000u64).prop_map(|s| Op::Pass(Duration::from_secs(s))),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_gives_what_a_map_gives(
        ops in prop::collection::vec(op(), 0..120),
        synced in any::<bool>(),
    ) {
        let sync_every = Duration::from_secs(3_600);
        let durability =
            if synced { Durability::Synced } else { Durability::Buffered { sync_every } };
        let mut driver = Driver::new(SimDisk::new(), durability);
        let stopped = driver.run(&ops);
        assert!(stopped.is_none(), "an operation failed");
        driver.run(&[Op::Reopen]);
        let seen = driver.observe().expect("no reads fail");
        assert_eq!(seen, driver.visible(driver.history.last().expect("never empty")));
    }
}
