#!/bin/sh
# Runs as root in a machine that was booted with the real systemd, and writes what came of each check: `ok NAME` or `FAILED NAME: why`.
# The commands of docs/OPERATING.md (As a service) are in here word for word; `operating.rs` compares them. Arguments: the package, a newer one.
set -u
old=$1 new=$2
cd /
export QTF_ADDR=unix:/run/qtf/default.sock

# check NAME COMMAND..: the command succeeds.
check() {
    name=$1
    shift
    if said=$("$@" 2>&1); then
        echo "ok $name"
    else
        echo "FAILED $name: $* said: $said"
        systemctl status --no-pager --lines=20 qtfd.service 'qtf-worker@*.service' 2>&1 | sed 's/^/    /'
    fi
}
# until_true NAME COMMAND..: the command succeeds some time; whoever runs all this has a limit.
until_true() {
    name=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 600 ]; then
            check "$name" "$@"
            return
        fi
        sleep 0.1
    done
    echo "ok $name"
}
property() { systemctl show --value -p "$1" "${2:-qtfd.service}"; }
is() { [ "$(property "$1" "${3:-qtfd.service}")" = "$2" ]; }
status_has() { property StatusText "${2:-qtfd.service}" | grep -q "$1"; }
logged() { journalctl -q --no-pager "$@" | grep -q .; }
waiting() { qtf ps --output json 2>/dev/null | grep -c '"state"'; }
has_waiting() { [ "$(qtf ps | grep -c sleeper-task)" = "$1" ]; }
other_pid() { now=$(property MainPID) && [ "$now" != 0 ] && [ "$now" != "$1" ] && is ActiveState active; }

echo "step install and start"
check package_is_installed dpkg -i "$old"
check daemon_is_active_after_its_ready is ActiveState active
check daemon_runs_as_its_own_user sh -c '[ "$(stat -c %U /proc/$(systemctl show --value -p MainPID qtfd)/)" = qtf ]'
until_true status_says_what_waits status_has '0 waiting, 0 running'
check status_can_be_looked_at sh -c "systemctl status --no-pager --lines=20 qtfd.service 'qtf-worker@*.service'"
check socket_is_the_managers is ActiveState active qtfd.socket
check info_answers_at_the_inherited_socket qtf info
check manual_pages_are_there test -s /usr/share/man/man1/qtfd.1

echo "step a task runs"
mkdir -p /etc/qtf
echo QTF_LOG=info,qtf_worker=debug > /etc/qtf/worker-one.env
systemctl start --no-block qtf-worker@one
until_true worker_is_active_when_it_is_registered is ActiveState active qtf-worker@one.service
until_true worker_says_that_it_is_registered status_has 'registered' qtf-worker@one.service
id=$(qtf submit -- echo hello)
check task_is_done qtf wait "$id"
check output_is_that_of_the_task sh -c "[ \"\$(qtf result $id)\" = hello ]"

echo "step the journal has fields"
until_true task_is_found_by_its_id logged TASK_ID="$id" ATTEMPT=1
check message_ids_are_there logged MESSAGE_ID=915081bb9d3d41b4940e58452a7afbd2 _SYSTEMD_UNIT=qtfd.service
check worker_is_found_by_its_message_id logged MESSAGE_ID=6f23b8d070ee4ba5a5dd9358f60ec63d _SYSTEMD_UNIT=qtf-worker@one.service

echo "step what waits is kept from here on"
for n in 1 2 3 4 5; do
    qtf submit --kind nobody-has-this -- >/dev/null 2>&1 || qtf submit --kind nobody-has-this >/dev/null
done
waiting_now() { qtf ps | grep -c nobody-has-this; }
five_wait() { [ "$(waiting_now)" = 5 ]; }
check five_tasks_wait five_wait
until_true status_counts_them status_has '5 waiting'

echo "step reload"
pid=$(property MainPID)
echo 'log = "info,qtf_daemon=debug"' >> /etc/qtf/qtfd.toml
check reload_is_done systemctl reload qtfd
until_true reload_is_told logged MESSAGE_ID=162a6ea71d9c449b9df207f347633c31
echo 'lease_ms = 6000' >> /etc/qtf/qtfd.toml
check second_reload_is_done systemctl reload qtfd
until_true what_waits_for_a_restart_is_named logged MESSAGE_ID=162a6ea71d9c449b9df207f347633c31 QTF_WAITING=lease_ms
check reload_starts_nothing_anew is MainPID "$pid"
until_true reload_ends is ActiveState active

echo "step killed"
systemctl kill -s KILL qtfd
until_true killed_daemon_is_started_again other_pid "$pid"
check nothing_is_lost_by_a_kill five_wait
until_true segment_was_adopted logged MESSAGE_ID=aad4c35718f44c35a0430687346c75e8

echo "step a loop hangs"
mkdir -p /etc/systemd/system/qtfd.service.d
printf '[Service]\nWatchdogSec=3s\n' > /etc/systemd/system/qtfd.service.d/watchdog.conf
check units_are_read_anew systemctl daemon-reload
check restart_takes_the_watchdog systemctl restart qtfd
pid=$(property MainPID)
restarts=$(property NRestarts)
core=$(grep -lx qtfd-core /proc/"$pid"/task/*/comm | cut -d/ -f5)
# Only this thread: the others, and with them a timer, go on.
strace -qq -p "$core" -e inject=all:delay_enter=600000000 >/dev/null 2>&1 &
tracer=$!
until_true hanging_loop_is_found_by_the_watchdog logged -u qtfd.service --grep 'Watchdog timeout'
# A thread that is traced does not go while its tracer waits.
kill -KILL "$tracer"
until_true hanging_daemon_is_started_again other_pid "$pid"
check daemon_was_restarted_once sh -c "[ \"\$(systemctl show --value -p NRestarts qtfd)\" = $((restarts + 1)) ]"
check nothing_is_lost_by_a_hang five_wait

echo "step upgrade"
pid=$(property MainPID)
worker=$(property MainPID qtf-worker@one.service)
check newer_package_is_installed dpkg -i "$new"
check upgrade_has_started_the_daemon_anew other_pid "$pid"
check nothing_is_lost_by_an_upgrade five_wait
check worker_goes_on is MainPID "$worker" qtf-worker@one.service
id=$(qtf submit -- echo after)
check task_runs_after_the_upgrade qtf wait "$id"
check configuration_of_the_operator_stays grep -q lease_ms /etc/qtf/qtfd.toml

echo "step configuration that cannot be"
cp /etc/qtf/qtfd.toml /etc/qtf/good.toml
echo 'core = 999' >> /etc/qtf/qtfd.toml
systemctl restart qtfd >/dev/null 2>&1
until_true core_that_is_not_allowed_is_a_failure is ActiveState failed
until_true failure_has_the_code_of_a_wrong_configuration is ExecMainStatus 2
until_true failure_names_the_core logged -u qtfd.service --grep 'core = 999'
# Whoever connects has the socket try it again, until the limit of starts is reached.
check socket_and_daemon_are_stopped systemctl stop qtfd.socket qtfd
cp /etc/qtf/good.toml /etc/qtf/qtfd.toml
systemctl reset-failed qtfd.socket qtfd
check daemon_starts_with_a_mended_configuration systemctl start qtfd.socket qtfd
check nothing_is_lost_by_a_failed_start five_wait

echo "step stop"
systemctl stop qtf-worker@one qtfd.socket qtfd
check stopped_daemon_is_inactive is ActiveState inactive
check stop_was_clean is Result success
check worker_has_left_in_order is Result success qtf-worker@one.service
check segment_outlives_the_service sh -c 'ipcs -m | grep -q qtf'
check stopped_daemon_starts_again systemctl start qtfd.socket qtfd
check nothing_is_lost_by_a_stop five_wait
check package_is_removed dpkg -r quantum-taskflow
check tasks_outlive_the_package test -d /var/lib/qtf/journal
echo "end"
