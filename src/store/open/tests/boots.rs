//! Whether the host has booted since a journal was written, where both sides tell and where they do not.

use crate::journal::{Rebooted, Role, replay};
use crate::store::Store;
use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::{Rig, rig};

#[test]
fn only_two_ids_that_are_told_say_whether_the_host_has_booted() {
    let mut count = 0;
    for (written_by, read_by, wanted) in [
        (1, 1, Rebooted::No),
        (1, 2, Rebooted::Yes),
        (1, 0, Rebooted::Unknown),
        (0, 1, Rebooted::Unknown),
        (0, 0, Rebooted::Unknown),
    ] {
        let begun = RecordedFiles::new(true).disk();
        let mut rig = Rig::small(RecordedFiles::holding(begun, written_by));
        rig.map("a");
        rig.write();
        rig.commit();
        rig.close();
        let files = RecordedFiles::holding(rig.files.disk(), read_by);
        let store = rig.store.0.layers.store;
        for reader in [Role::Owner, Role::ReadOnly, Role::Salvager] {
            let found = replay(&*files, &store, reader).unwrap();
            assert_eq!(found.rebooted, wanted, "{written_by}, {read_by}");
            count += 1;
        }
        // Whoever has it then tells of its own.
        Store::open_files(files.clone(), "test", rig::open_options())
            .unwrap()
            .close()
            .unwrap();
        let again = replay(&*files, &store, Role::Owner).unwrap();
        let told = read_by != 0;
        assert_eq!(
            again.rebooted == Rebooted::No,
            told,
            "{written_by}, {read_by}"
        );
    }
    println!("{count} looks at journals of this boot, of another, and of nobody knows which");
}
