//! One suite of tests for every implementation of the port.
