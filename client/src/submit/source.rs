//! What a submission stream reads: the user's tasks, in chunks that fit one batch.

use core::pin::Pin;
use core::task::Poll;

use futures_util::stream::Fuse;
use futures_util::{Stream, StreamExt as _};
use qtf_proto::v1::TaskSpec;

type Specs = Pin<Box<dyn Stream<Item = TaskSpec> + Send>>;

/// The user's tasks.
pub(super) struct Source {
    specs: Fuse<Specs>,
}

impl Source {
    pub(super) fn new(specs: impl Stream<Item = TaskSpec> + Send + 'static) -> Self {
        let specs: Specs = Box::pin(specs);
        Self {
            specs: specs.fuse(),
        }
    }

    /// What there is by now, at least one and at most as many as said; `None` at the end. Nothing is lost
    /// when the future is dropped.
    pub(super) async fn chunk(
        &mut self,
        count_max: usize,
        bytes_max: usize,
    ) -> Option<Vec<TaskSpec>> {
        let mut chunk = Vec::new();
        let mut bytes = 0_usize;
        core::future::poll_fn(|cx| {
            while chunk.len() < count_max && bytes < bytes_max {
                match self.specs.poll_next_unpin(cx) {
                    Poll::Ready(Some(spec)) => {
                        bytes = bytes.saturating_add(spec.payload.len());
                        chunk.push(spec);
                    }
                    Poll::Pending if chunk.is_empty() => return Poll::Pending,
                    Poll::Ready(None) if chunk.is_empty() => return Poll::Ready(None),
                    Poll::Pending | Poll::Ready(None) => break,
                }
            }
            Poll::Ready(Some(core::mem::take(&mut chunk)))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn specs(sizes: impl IntoIterator<Item = usize, IntoIter: Send> + 'static) -> Source {
        Source::new(stream::iter(
            sizes
                .into_iter()
                .map(|size| TaskSpec {
                    payload: vec![0; size].into(),
                    ..TaskSpec::default()
                })
                .collect::<Vec<_>>(),
        ))
    }

    #[tokio::test]
    async fn chunks_are_bounded_in_count_and_in_bytes_and_hold_one_at_least() {
        let mut source = specs([1, 1, 1, 100, 7]);
        let mut sizes = Vec::new();
        while let Some(chunk) = source.chunk(2, 10).await {
            sizes.push(
                chunk
                    .iter()
                    .map(|spec| spec.payload.len())
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(sizes, [vec![1, 1], vec![1, 100], vec![7]]);
    }
}
