//! Small models of IPVS's schedulers, for the tests.
