//! The ends of tasks, as they are told.

use qtf_proto::v1::{WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::Service;

impl Service {
    pub(super) async fn watch_all(
        self,
        mut requests: Streaming<WatchRequest>,
        answers: mpsc::Sender<Result<WatchResponse, Status>>,
    ) {
        let mut watched: Vec<u64> = Vec::new();
        let mut with_output = false;
        let mut told = 0;
        let mut is_open = true;
        while is_open || !watched.is_empty() {
            let changed = self.changed.notified();
            let mut changed = core::pin::pin!(changed);
            changed.as_mut().enable();
            let limit = self.world().break_watch_after;
            let mut ends = Vec::new();
            watched.retain(|id| match self.world().task_end(*id, with_output) {
                Some(end) if limit == 0 || told + ends.len() < limit => {
                    ends.push(end);
                    false
                }
                _ => true,
            });
            told += ends.len();
            let times = if self.world().answers_twice { 2 } else { 1 };
            for _ in 0..times {
                let ends = ends.clone();
                if !ends.is_empty() && answers.send(Ok(WatchResponse { ends })).await.is_err() {
                    return;
                }
            }
            if limit > 0 && told >= limit {
                return;
            }
            tokio::select! {
                () = &mut changed => {}
                request = requests.message(), if is_open => match request {
                    Ok(Some(request)) => {
                        with_output = request.with_output;
                        watched.extend(request.watch);
                        self.world().acknowledged.extend(request.acknowledge);
                    }
                    Ok(None) | Err(_) => is_open = false,
                },
            }
        }
    }
}
