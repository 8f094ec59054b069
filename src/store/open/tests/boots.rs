//! Whether the host has rebooted since a journal was written, with and without boot ids on both sides.

use crate::journal::{Rebooted, Role, replay};
use crate::store::Store;
use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::{Rig, rig};

#[test]
fn only_two_known_ids_say_whether_the_host_has_rebooted() {
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
        // The next owner writes its own boot id.
        Store::open_files(files.clone(), "test", rig::open_options())
            .unwrap()
            .close()
            .unwrap();
        let again = replay(&*files, &store, Role::Owner).unwrap();
        let known = read_by != 0;
        assert_eq!(
            again.rebooted == Rebooted::No,
            known,
            "{written_by}, {read_by}"
        );
    }
    println!("{count} opens of journals of this boot, of another boot, and of an unknown boot");
}
