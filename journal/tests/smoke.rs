//! The whole way of a record: appended, written, found again by the next daemon.

use std::sync::Arc;

use qtf_journal::{
    Appender, AppenderLimits, JournalConfig, Lsn, Record, SimDisk, Step, Storage, Writer,
    make_spare, open_tail, write_group,
};

fn config(nonce: u64) -> JournalConfig {
    JournalConfig {
        file_bytes: 512 * 1024,
        ..JournalConfig::new("smoke", nonce)
    }
}

/// Drives a writer until the group is durable.
fn write(storage: &dyn Storage, writer: &mut Writer, appender: &mut Appender) -> Lsn {
    let group = appender.take_group().expect("records wait");
    let mut step = writer.begin(group);
    loop {
        step = match step {
            Step::Write(write) => {
                let (buffer, result) = write_group(storage, write);
                writer.written(buffer, result)
            }
            Step::NeedFile => {
                let file = make_spare(storage, writer.file_plan()).expect("room");
                writer.add_file(file).expect("it waits")
            }
            Step::Durable(lsn) => {
                appender.give_back(writer.take_buffer().expect("written"));
                return lsn;
            }
            Step::Failed => panic!("{:?}", writer.failure()),
        };
    }
}

#[test]
fn records_survive_daemons_and_crashes() {
    let disk = Arc::new(SimDisk::new());
    let mut end = Lsn::NONE;
    for round in 0..20 {
        let opened = open_tail(&*disk, &config(round)).unwrap();
        assert_eq!(opened.end, end, "round {round}");
        let mut writer = opened.start(&*disk, &config(round)).unwrap();
        let mut appender = Appender::new(opened.end.next(), AppenderLimits::default());
        for _ in 0..30 {
            for _ in 0..400 {
                appender
                    .push(&Record::Reserve { gen_limit: round })
                    .unwrap();
            }
            end = write(&*disk, &mut writer, &mut appender);
            assert_eq!(end, appender.last_lsn());
        }
        disk.crash(round);
    }
    assert_eq!(end, Lsn::new(20 * 30 * 400));
}
