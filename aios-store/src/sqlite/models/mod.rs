//! The read models: the tables of a projection, the waits of runs, and their retention.

mod read_model;
mod retention;
mod wait;
