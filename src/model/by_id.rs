//! Maps and sets by ids that no stranger chooses: a hash that is fast is good enough.

use std::collections::{HashMap, HashSet};

/// A map by ids.
pub type ById<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A set of ids.
pub type IdSet<K> = HashSet<K, foldhash::fast::RandomState>;
