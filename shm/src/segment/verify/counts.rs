//! Counts: tasks of each worker, of each client and of each phase, counted anew.
//!
//! A count is compared only if no change of the phases it is about was counted while it was taken.

use crate::segment::SegmentView;
use crate::segment::client_counts::{ClientCounts, Tasks};
use crate::segment::verify::{Pass, Rule};
use crate::task::state::{Owner, Phase};
use crate::worker::WorkerPhase;

pub(super) fn check(view: &SegmentView, pass: &mut Pass) {
    let counters = view.parts.counters();
    let before = counters.traffic();
    let gauges = Phase::ALL.map(|phase| (phase, counters.gauge(phase)));
    let running_before = running_counts(view);
    let mut phases = [0_u64; Phase::COUNT];
    let mut owned = vec![0_u64; view.parts.workers.len()];
    let clients_before = client_tasks(view);
    let mut clients = ClientCounts::new(view);
    for slot in (0..view.high_water()).filter_map(|number| view.slot(number)) {
        let state = view.state(slot);
        phases[state.phase() as usize] += 1;
        clients.note(view, slot, state);
        if let Owner::Worker(worker) = state.owner()
            && let Some(count) = owned.get_mut(worker.position())
        {
            *count += 1;
        }
    }
    let after = counters.traffic();
    for (phase, gauge) in gauges {
        if phase == Phase::Free {
            continue;
        }
        let counted = phases[phase as usize];
        if gauge == counted {
            continue;
        }
        if before[phase as usize] == after[phase as usize] {
            let text = format!("the gauge says {gauge}, there are {counted}");
            pass.found(Rule::Gauge, phase, text);
        } else {
            pass.unsettled += 1;
        }
    }
    let calm = Phase::ALL
        .into_iter()
        .filter(|phase| phase.is_with_worker())
        .all(|phase| before[phase as usize] == after[phase as usize]);
    let still = Phase::ALL
        .into_iter()
        .all(|phase| before[phase as usize] == after[phase as usize]);
    check_clients(view, &clients, still.then_some(&clients_before), pass);
    let running_after = running_counts(view);
    for (number, &counted) in owned.iter().enumerate() {
        let Some(running) = running_before[number] else {
            continue;
        };
        if running == counted {
            continue;
        }
        if calm && running_after[number] == Some(running) {
            let text = format!("counts {running} tasks, owns {counted}");
            pass.found(Rule::RunningCount, format!("worker {number}"), text);
        } else {
            pass.unsettled += 1;
        }
    }
    pass.workers = running_before.iter().flatten().count() as u64;
}

/// Compares the counts of clients, if nothing changed while they were taken (`before` is what the records said then).
fn check_clients(
    view: &SegmentView,
    counted: &ClientCounts,
    before: Option<&Vec<Option<Tasks>>>,
    pass: &mut Pass,
) {
    let after = client_tasks(view);
    for (index, counted) in counted.iter() {
        let said = after.get(index.position()).copied().flatten();
        let Some(said) = said.filter(|&said| said != counted) else {
            continue;
        };
        if before.and_then(|before| before.get(index.position())) == Some(&Some(said)) {
            let text = format!(
                "counts {} unfinished and {} kept tasks, has {} and {}",
                said.unfinished, said.kept, counted.unfinished, counted.kept
            );
            pass.found(Rule::ClientCount, format!("client {index}"), text);
        } else {
            pass.unsettled += 1;
        }
    }
}

/// What the records in use say.
fn client_tasks(view: &SegmentView) -> Vec<Option<Tasks>> {
    let records = view.parts.clients.iter();
    records
        .map(|record| {
            record.is_used().then(|| Tasks {
                unfinished: record.unfinished(),
                kept: record.kept(),
            })
        })
        .collect()
}

/// Running counts of registered workers.
fn running_counts(view: &SegmentView) -> Vec<Option<u64>> {
    let counted = |phase| {
        !matches!(
            phase,
            WorkerPhase::Free | WorkerPhase::Joining | WorkerPhase::Reserved
        )
    };
    let states = view.parts.workers.iter().map(|slot| slot.state());
    states
        .map(|state| counted(state.phase()).then_some(u64::from(state.running())))
        .collect()
}
