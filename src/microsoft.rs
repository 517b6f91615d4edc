//! Everything we believe about Entra and Graph.
