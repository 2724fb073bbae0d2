//! The calls with one answer: cancel, forget, update, hold, release, look-ups, lists.

use futures_util::{Stream, StreamExt as _, stream};
use qtf_proto::limits::BATCH_ENTRIES_MAX;
use qtf_proto::transport::Transport;
use qtf_proto::v1::admin_client::AdminClient;
use qtf_proto::v1::{
    ClientInfo, DaemonInfo, DrainWorkerRequest, EvictWorkerRequest, GetInfoRequest, GetTaskRequest,
    ListClientsRequest, ListTasksRequest, ListWorkersRequest, RefusalReason, TaskInfo,
    TaskSelection, TaskState, TaskVerdicts, UpdateTasksRequest, WorkerInfo,
};

use crate::client::Client;
use crate::error::{CallError, Refusal};
use crate::session::Session;
use crate::{TaskId, WorkerId};

/// What became of one id of a call over several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskVerdict {
    /// The id.
    pub id: TaskId,
    /// State after the call, or why the call did nothing for it.
    pub result: Result<TaskState, Refusal>,
}

/// Which tasks [`Client::list`] lists.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only these states; empty = all.
    pub states: Vec<TaskState>,
    /// Only tasks of this client's identity.
    pub mine: bool,
    /// Only members of this array.
    pub array: Option<TaskId>,
    /// At most so many; 0 = all.
    pub limit: u64,
    /// Leave the previews of payloads out.
    pub without_preview: bool,
}

enum Change<'a> {
    Cancel(&'a str),
    Forget,
    Priority(u8),
    Revive(&'a str),
    Hold(&'a str),
    Release(&'a str),
}

impl Change<'_> {
    /// Of a repeat whose first answer was lost: a refusal that only says that the first was carried out.
    const fn is_done_before(&self, refusal: &Refusal, state: TaskState) -> bool {
        let is_wrong_state = matches!(refusal.reason, RefusalReason::WrongState);
        match self {
            Self::Forget => refusal.is_unknown(),
            Self::Cancel(_) => is_wrong_state && matches!(state, TaskState::Cancelled),
            Self::Revive(_) => is_wrong_state && !matches!(state, TaskState::DeadLetter),
            Self::Release(_) => is_wrong_state,
            Self::Priority(_) | Self::Hold(_) => false,
        }
    }
}

impl Client {
    /// Cancels waiting tasks at once and asks running ones to stop; answers in the order of `ids`.
    /// Repeated when the answer is lost.
    ///
    /// # Errors
    /// See [`CallError`]; refusals of single ids are in the verdicts.
    pub async fn cancel(
        &self,
        ids: &[TaskId],
        reason: &str,
    ) -> Result<Vec<TaskVerdict>, CallError> {
        self.change(ids, &Change::Cancel(reason)).await
    }

    /// Acknowledges results: frees the slots of ended tasks. Answers in the order of `ids`. Repeated when
    /// the answer is lost; a task that is not there any more is then taken as forgotten by the first call,
    /// in state [`TaskState::Unspecified`].
    ///
    /// # Errors
    /// See [`CallError`]; refusals of single ids are in the verdicts.
    pub async fn forget(&self, ids: &[TaskId]) -> Result<Vec<TaskVerdict>, CallError> {
        self.change(ids, &Change::Forget).await
    }

    /// Changes the priority of waiting tasks. Answers in the order of `ids`.
    ///
    /// # Errors
    /// See [`CallError`]; refusals of single ids are in the verdicts.
    pub async fn update_priority(
        &self,
        ids: &[TaskId],
        priority: u8,
    ) -> Result<Vec<TaskVerdict>, CallError> {
        self.change(ids, &Change::Priority(priority)).await
    }

    /// Gives dead letters new attempts: they are ready again. Answers in the order of `ids`. To purge a dead
    /// letter is to [`forget`](Client::forget) it.
    ///
    /// # Errors
    /// See [`CallError`]; refusals of single ids are in the verdicts.
    pub async fn revive(
        &self,
        ids: &[TaskId],
        reason: &str,
    ) -> Result<Vec<TaskVerdict>, CallError> {
        self.change(ids, &Change::Revive(reason)).await
    }

    /// Keeps waiting tasks from being started until they are [released](Client::release) or cancelled. A task that a worker has, or that
    /// has ended, is refused. Answers in the order of `ids`.
    ///
    /// # Errors
    /// See [`CallError`]; refusals of single ids are in the verdicts.
    pub async fn hold(&self, ids: &[TaskId], reason: &str) -> Result<Vec<TaskVerdict>, CallError> {
        self.change(ids, &Change::Hold(reason)).await
    }

    /// Releases held tasks: they are ready at their old place, or delayed if their start is later. A task that is not held and has not
    /// ended stays as it is. Answers in the order of `ids`.
    ///
    /// # Errors
    /// See [`CallError`]; refusals of single ids are in the verdicts.
    pub async fn release(
        &self,
        ids: &[TaskId],
        reason: &str,
    ) -> Result<Vec<TaskVerdict>, CallError> {
        self.change(ids, &Change::Release(reason)).await
    }

    async fn change(
        &self,
        ids: &[TaskId],
        change: &Change<'_>,
    ) -> Result<Vec<TaskVerdict>, CallError> {
        let mut verdicts = Vec::with_capacity(ids.len());
        let mut after = 0;
        for ids in ids.chunks(BATCH_ENTRIES_MAX) {
            let mut patience = self.patience();
            let mut is_repeat = false;
            let answer = loop {
                let session = self.session_after(after, &patience).await;
                let error = match &session {
                    Ok(session) => match self.change_once(ids, change, session).await {
                        Ok(answer) => match passing_refusal(&answer) {
                            None => break answer,
                            Some(refusal) => {
                                is_repeat = true;
                                CallError::Refused(refusal)
                            }
                        },
                        Err(error) => {
                            is_repeat |= !matches!(error, CallError::Refused(_));
                            error
                        }
                    },
                    Err(error) => error.clone(),
                };
                let failed = (error, session.as_ref().ok());
                self.before_repeat(&mut patience, &mut after, failed)
                    .await?;
            };
            append_verdicts(&mut verdicts, ids, answer, |refusal, state| {
                is_repeat && change.is_done_before(refusal, state)
            })?;
        }
        Ok(verdicts)
    }

    async fn change_once(
        &self,
        ids: &[TaskId],
        change: &Change<'_>,
        session: &Session,
    ) -> Result<TaskVerdicts, CallError> {
        let task_ids = ids.iter().map(|id| id.as_raw()).collect();
        let session = session.token;
        let mut plm = self.plm();
        let selection = |reason: &str, task_ids| TaskSelection {
            session,
            task_ids,
            reason: reason.to_owned(),
        };
        match change {
            Change::Cancel(reason) => {
                let call = plm.cancel_tasks(selection(reason, task_ids));
                self.timed(call).await
            }
            Change::Revive(reason) => {
                let call = plm.revive_tasks(selection(reason, task_ids));
                self.timed(call).await
            }
            Change::Hold(reason) => {
                let call = plm.hold_tasks(selection(reason, task_ids));
                self.timed(call).await
            }
            Change::Release(reason) => {
                let call = plm.release_tasks(selection(reason, task_ids));
                self.timed(call).await
            }
            Change::Forget => {
                let call = plm.forget_tasks(selection("", task_ids));
                self.timed(call).await
            }
            Change::Priority(priority) => {
                let call = plm.update_tasks(UpdateTasksRequest {
                    session,
                    task_ids,
                    priority: (*priority).into(),
                });
                self.timed(call).await
            }
        }
    }

    /// Looks up one task.
    ///
    /// # Errors
    /// [`CallError::Refused`] when it is unknown.
    pub async fn task(&self, id: TaskId) -> Result<TaskInfo, CallError> {
        let mut plm = self.plm();
        let request = GetTaskRequest {
            task_id: id.as_raw(),
        };
        self.timed(plm.get_task(request)).await
    }

    /// Lists tasks, in slot order.
    ///
    /// # Errors
    /// When the list cannot be started; a break in the middle is the stream's last item.
    pub async fn list(
        &self,
        filter: ListFilter,
    ) -> Result<impl Stream<Item = Result<TaskInfo, CallError>> + Send + Unpin + use<>, CallError>
    {
        let session = self.session().await?;
        let mut plm = self.plm();
        let request = ListTasksRequest {
            session: session.token,
            states: filter.states.iter().map(|state| (*state).into()).collect(),
            mine: filter.mine,
            array_id: filter.array.map_or(0, TaskId::as_raw),
            limit: filter.limit,
            without_preview: filter.without_preview,
        };
        let batches = self.timed(plm.list_tasks(request)).await?;
        Ok(batches.flat_map(|batch| {
            stream::iter(match batch {
                Ok(batch) => batch.tasks.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(status) => vec![Err(CallError::of_status(&status))],
            })
        }))
    }

    /// Lists the registered workers.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, CallError> {
        let mut admin = self.admin();
        let call = admin.list_workers(ListWorkersRequest {});
        Ok(self.timed(call).await?.workers)
    }

    /// Lists the registered clients.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn clients(&self) -> Result<Vec<ClientInfo>, CallError> {
        let mut admin = self.admin();
        let call = admin.list_clients(ListClientsRequest {});
        Ok(self.timed(call).await?.clients)
    }

    /// What the daemon is and where its segment lies.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn info(&self) -> Result<DaemonInfo, CallError> {
        let mut admin = self.admin();
        self.timed(admin.get_info(GetInfoRequest {})).await
    }

    /// Lets a worker take no more tasks and leave when it holds none.
    ///
    /// # Errors
    /// [`CallError::Refused`] when no worker has this id.
    pub async fn drain(&self, worker: WorkerId, reason: &str) -> Result<(), CallError> {
        let mut admin = self.admin();
        let call = admin.drain_worker(DrainWorkerRequest {
            worker_id: worker.as_raw(),
            reason: reason.to_owned(),
        });
        match self.timed(call).await?.refusal {
            None => Ok(()),
            Some(refusal) => Err(CallError::Refused(refusal.into())),
        }
    }

    /// Gives a worker up: it is lost at once, what it holds goes to others, and it is told to register anew.
    ///
    /// # Errors
    /// [`CallError::Refused`] when no worker has this id, or it is a local process.
    pub async fn evict(&self, worker: WorkerId, reason: &str) -> Result<(), CallError> {
        let mut admin = self.admin();
        let call = admin.evict_worker(EvictWorkerRequest {
            worker_id: worker.as_raw(),
            reason: reason.to_owned(),
        });
        match self.timed(call).await?.refusal {
            None => Ok(()),
            Some(refusal) => Err(CallError::Refused(refusal.into())),
        }
    }

    fn admin(&self) -> AdminClient<Transport> {
        AdminClient::new(self.inner.transport.clone())
    }
}

/// A daemon that stops in the middle of a call says so for each task.
fn passing_refusal(answer: &TaskVerdicts) -> Option<Refusal> {
    let refusals = answer.verdicts.iter().filter_map(|one| one.refusal.clone());
    refusals.map(Refusal::from).find(Refusal::is_passing)
}

fn append_verdicts(
    verdicts: &mut Vec<TaskVerdict>,
    ids: &[TaskId],
    answer: TaskVerdicts,
    is_done_before: impl Fn(&Refusal, TaskState) -> bool,
) -> Result<(), CallError> {
    if answer.verdicts.len() != ids.len() {
        return Err(CallError::protocol(format!(
            "{} verdicts for {} tasks",
            answer.verdicts.len(),
            ids.len()
        )));
    }
    verdicts.extend(ids.iter().zip(answer.verdicts).map(|(id, verdict)| {
        let state = verdict.state();
        let refusal = verdict.refusal.map(Refusal::from);
        let refusal = refusal.filter(|refusal| !is_done_before(refusal, state));
        TaskVerdict {
            id: *id,
            result: refusal.map_or(Ok(state), Err),
        }
    }));
    Ok(())
}
