//! The rules of the engine, a file for each set; test names are the rules.

mod cancellation;
mod clients;
mod joining;
mod liveness;
mod losses;
mod repair;
mod results;
mod retention;
mod robustness;
mod scheduling;
mod submission;
mod timers;
mod world;
