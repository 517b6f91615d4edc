//! The agent beside the suite.
