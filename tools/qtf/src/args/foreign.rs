//! Names of commands that other programs have, and what does the same here.

/// The command that somebody means who types this name.
pub(crate) fn ours_for(name: &str) -> Option<&'static str> {
    Some(match name {
        "list" | "ls" | "jobs" | "queue" | "squeue" | "tasks" => {
            "`qtf ps` lists tasks, `qtf worker ls` workers"
        }
        "top" => "`qtf ps` lists tasks, `qtf worker ls` shows what the workers do",
        "status" | "show" | "state" => {
            "`qtf task ID` shows a task, `qtf ps` lists them, `qtf info` is about the daemon"
        }
        "log" | "logs" | "output" | "cat" | "stdout" => {
            "`qtf result ID` prints what a task has printed, `qtf task ID` shows how its attempts ended"
        }
        "kill" | "stop" | "abort" | "scancel" => "`qtf cancel ID` ends a task",
        "rm" | "remove" | "delete" | "clean" | "purge" => {
            "`qtf forget ID` frees the result of a task that has ended, `qtf cancel ID` ends one"
        }
        "run" | "exec" | "add" | "enqueue" | "sbatch" => {
            "`qtf submit -- PROG` hands a task to the daemon, `qtf map PROG ::: INPUTS` runs one for each input"
        }
        "start" | "serve" | "daemon" | "server" => {
            "`qtf dev` starts daemon and workers for trying out, `qtfd` a daemon that stays"
        }
        "workers" | "nodes" | "sinfo" => "`qtf worker ls` lists workers",
        "pause" | "suspend" => "`qtf hold ID` keeps a task from being started",
        "resume" | "unhold" => "`qtf release ID` lets a held task go on",
        "retry" | "requeue" => "`qtf dead requeue ID` gives a dead letter new attempts",
        _ => return None,
    })
}
