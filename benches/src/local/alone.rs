//! A segment at which nobody else is: what the steps of a local process cost by themselves.

use std::hint::black_box;
use std::time::Instant;

use qtf_benches::Failure;
use qtf_local::direct::{DirectTask, OpenSegment, Wait};
use qtf_shm::layout::attach::AttachRole;
use qtf_shm::{
    Attachment, AttachmentSpec, Geometry, KindIndex, LockFile, Outcome, OutcomeKind, Segment,
    SegmentSpec,
};

use crate::tell;

const BURSTS: usize = 60;
const PER_BURST: u32 = 5_000;
const WELL: Outcome = Outcome {
    kind: OutcomeKind::Exited,
    code: 0,
    result_dropped: false,
    output_cut: false,
};

/// A segment as a daemon has left it that was killed.
struct Ground {
    segment: Segment,
    folder: tempfile::TempDir,
}

impl Ground {
    fn new(tasks: u32) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let lock = folder.path().join("a.lock");
        std::fs::write(&lock, "")?;
        let mut spec = SegmentSpec::new("bench-local", folder.path());
        spec.geometry = Geometry::for_counts(tasks.into(), 64)?;
        let segment = Segment::create_private(&spec)?;
        segment.set_lock_file(LockFile::open(&lock)?.identity());
        Ok(Self { segment, folder })
    }

    fn open(&self, role: AttachRole) -> Result<OpenSegment, Failure> {
        let spec = AttachmentSpec::new(role, "bench", self.folder.path())
            .with_lock_file(self.folder.path().join("a.lock"));
        let shm_id = self.segment.shm_id().ok_or("a segment without an id")?;
        Ok(OpenSegment::over(Attachment::open_id(shm_id, &spec)?))
    }
}

const fn task(kind: KindIndex, priority: u8) -> DirectTask<'static> {
    DirectTask {
        kind,
        payload: b"",
        priority,
    }
}

/// What a submission costs.
pub(crate) fn submits() -> Result<(), Failure> {
    let ground = Ground::new(16_384)?;
    let open = ground.open(AttachRole::Client)?;
    let kind = open.kind("noop")?;
    let mut client = open.client().map_err(|refusal| refusal.message)?;
    let mut bursts = Vec::new();
    for _ in 0..BURSTS {
        let began = Instant::now();
        for _ in 0..PER_BURST {
            let submitted = client.submit(&task(kind, 128));
            black_box(submitted.map_err(|refusal| refusal.message)?);
        }
        bursts.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(PER_BURST));
        let worker_side = ground.open(AttachRole::Worker)?;
        let worker = worker_side.worker("emptier", [kind].into_iter().collect(), 64)?;
        while let Some(taken) = worker.take(Wait::NOT) {
            let id = taken.id();
            black_box(taken.finish(WELL, b"").is_ok());
            client.look_at(id);
            let (ended, _) = client.next_end(Wait::NOT).ok_or("no end")?;
            client.forget(ended);
        }
    }
    tell("local submit", bursts);
    Ok(())
}

/// What the whole life of a task costs while so many wait, by one thread and no daemon.
pub(crate) fn lives(waiting: u32) -> Result<(), Failure> {
    let ground = Ground::new(waiting + 1_024)?;
    let (of_client, of_worker) = (
        ground.open(AttachRole::Client)?,
        ground.open(AttachRole::Worker)?,
    );
    let kind = of_client.kind("noop")?;
    let mut client = of_client.client().map_err(|refusal| refusal.message)?;
    let worker = of_worker.worker("bench", [kind].into_iter().collect(), 64)?;
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..waiting {
        let waits = task(kind, random.u8(0..200));
        client.submit(&waits).map_err(|refusal| refusal.message)?;
    }
    let mut bursts = Vec::new();
    for _ in 0..BURSTS {
        let began = Instant::now();
        for _ in 0..PER_BURST {
            client
                .submit(&task(kind, random.u8(0..200)))
                .map_err(|refusal| refusal.message)?;
            let taken = worker.take(Wait::NOT).ok_or("nothing to take")?;
            let id = taken.id();
            black_box(taken.finish(WELL, b"").is_ok());
            client.look_at(id);
            let (ended, _) = client.next_end(Wait::NOT).ok_or("no end")?;
            client.forget(ended);
        }
        bursts.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(PER_BURST));
    }
    tell(&format!("life, {waiting} waiting"), bursts);
    Ok(())
}
