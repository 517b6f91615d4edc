//! What the fuzzers have found so far does no harm. `make fuzz` looks for more.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

#[test]
fn everything_that_was_kept_is_taken() {
    for (name, target) in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name);
        let mut kept = 0;
        for file in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}")) {
            target(&std::fs::read(file.unwrap().path()).unwrap());
            kept += 1;
        }
        assert!(kept > 0, "{name} has no corpus");
    }
}
