//! A guest: one vCPU in 64-bit user mode, which a KVM inside another virtual machine runs at full speed too. It reads or
//! writes the pages of a list, then leaves KVM_RUN.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Instant;

use crate::machine::page_size;
use crate::memory::Region;

// Numbers of linux/kvm.h.
const KVM_CREATE_VM: u64 = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: u64 = 0xae04;
const KVM_CREATE_VCPU: u64 = 0xae41;
const KVM_GET_DIRTY_LOG: u64 = 0x4010_ae42;
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
const KVM_RUN: u64 = 0xae80;
const KVM_SET_REGS: u64 = 0x4090_ae82;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
const KVM_SET_SREGS: u64 = 0x4138_ae84;
const KVM_EXIT_MMIO: u32 = 6;
const KVM_MEM_LOG_DIRTY_PAGES: u64 = 1;

/// Where the guest's page tables, code and list lie. RAM is at 0 and ends below.
const BOOT: u64 = 1 << 30;
const BOOT_BYTES: usize = 1 << 20;
const CODE: u64 = BOOT + 0x5000;
const LIST: u64 = BOOT + 0x1_0000;
/// An address without memory: a store there ends the run.
const LEAVE: u64 = 2 << 30;
/// The guest reads and writes at this offset of a page.
const OFFSET: u8 = 0x80;

/// For each of rcx addresses at rsi: a load into edx, or a store of edx. Then a store to rbx.
const fn code(opcode: u8) -> [u8; 19] {
    [
        0x8b, 0x06, // next: mov eax, [rsi]
        0x48, 0x83, 0xc6, 0x04, // add rsi, 4
        opcode, 0x90, OFFSET, 0, 0, 0, // mov edx, [rax + OFFSET], or the other way round
        0x48, 0xff, 0xc9, // dec rcx
        0x75, 0xef, // jnz next
        0x89, 0x03, // mov [rbx], eax
    ]
}

const LOAD: u64 = CODE;
const STORE: u64 = CODE + 0x100;

pub struct Vcpu {
    machine: File,
    cpu: File,
    run: Region,
    boot: Region,
    ram_bytes: usize,
}

// SAFETY: the vCPU's descriptors and mappings belong to no thread.
unsafe impl Send for Vcpu {}
// SAFETY: as above; KVM serialises the calls of a vCPU.
unsafe impl Sync for Vcpu {}

fn call<T>(file: &File, request: u64, argument: *mut T) -> i32 {
    // SAFETY: each request gets the struct that it expects, which outlives the call.
    unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) }
}

fn number(file: &File, request: u64, argument: u64) -> i32 {
    call(file, request, argument as *mut u8)
}

fn own(fd: i32) -> File {
    assert!(fd >= 0, "KVM: {}", std::io::Error::last_os_error());
    // SAFETY: KVM has just made this descriptor.
    unsafe { File::from_raw_fd(fd as RawFd) }
}

impl Vcpu {
    /// A vCPU over `ram`, which must stay mapped. `None`: this host has no /dev/kvm, or another processor than the
    /// guest's code is for.
    pub fn new(ram: *mut u8, ram_bytes: usize, log_dirty: bool) -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        let kvm = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .ok()?;
        let machine = own(number(&kvm, KVM_CREATE_VM, 0));
        let boot = Region::anonymous(BOOT_BYTES);
        let flags = if log_dirty {
            KVM_MEM_LOG_DIRTY_PAGES
        } else {
            0
        };
        for (slot, flags, at, length, address) in [
            (0, flags, 0, ram_bytes, ram),
            (1, 0, BOOT, BOOT_BYTES, boot.base),
        ] {
            let mut region = [slot | flags << 32, at, length as u64, address as u64];
            let set = call(&machine, KVM_SET_USER_MEMORY_REGION, region.as_mut_ptr());
            assert_eq!(set, 0, "slot: {}", std::io::Error::last_os_error());
        }
        let cpu = own(number(&machine, KVM_CREATE_VCPU, 0));
        let run_bytes = number(&kvm, KVM_GET_VCPU_MMAP_SIZE, 0) as usize;
        let run = Region::shared(&cpu, run_bytes);
        let vcpu = Self {
            machine,
            cpu,
            run,
            boot,
            ram_bytes,
        };
        vcpu.start();
        Some(vcpu)
    }

    /// Page tables that map each address to itself, the code, and the segments of user mode.
    fn start(&self) {
        let boot = self.boot.base.cast::<u64>();
        let word = |at: u64, value: u64| {
            // SAFETY: inside the boot region.
            unsafe { boot.add((at / 8) as usize).write(value) };
        };
        word(0, (BOOT + 0x1000) | 0x27);
        for gigabyte in 0..3 {
            word(
                0x1000 + gigabyte * 8,
                (BOOT + 0x2000 + gigabyte * 0x1000) | 0x27,
            );
            for at in 0..512 {
                let address = gigabyte << 30 | at << 21;
                word(0x2000 + gigabyte * 0x1000 + at * 8, address | 0xe7);
            }
        }
        for (at, code) in [(LOAD, code(0x8b)), (STORE, code(0x89))] {
            // SAFETY: inside the boot region.
            unsafe {
                let to = self.boot.base.add((at - BOOT) as usize);
                to.copy_from_nonoverlapping(code.as_ptr(), code.len());
            }
        }
        let mut sregs = [0u64; 39];
        assert_eq!(call(&self.cpu, KVM_GET_SREGS, sregs.as_mut_ptr()), 0);
        // limit, selector, type, present, dpl, db, s, l, g
        for segment in 0..6 {
            let is_code = segment == 0;
            let selector: u64 = if is_code { 0x1b } else { 0x13 };
            let kind: u64 = if is_code { 11 } else { 3 };
            sregs[segment * 3] = 0;
            sregs[segment * 3 + 1] = 0xffff_ffff | selector << 32 | kind << 48 | 1 << 56;
            let (db, l) = if is_code { (0, 1) } else { (1, 0) };
            sregs[segment * 3 + 2] = 3 | db << 8 | 1 << 16 | l << 24 | 1 << 32;
        }
        sregs[28] |= 0x8000_0001; // cr0: paging and protection
        sregs[30] = BOOT; // cr3
        sregs[31] |= 0x20; // cr4: PAE
        sregs[33] |= 0x500; // efer: long mode
        assert_eq!(call(&self.cpu, KVM_SET_SREGS, sregs.as_mut_ptr()), 0);
    }

    /// Sets the pages that the next runs read or write.
    pub fn set_list(&self, pages: &[usize]) {
        assert!(pages.len() * 4 + (LIST - BOOT) as usize <= BOOT_BYTES);
        let list = self
            .boot
            .base
            .wrapping_add((LIST - BOOT) as usize)
            .cast::<u32>();
        for (at, page) in pages.iter().enumerate() {
            assert!((page + 1) * page_size() <= self.ram_bytes);
            // SAFETY: inside the boot region.
            unsafe { list.add(at).write((page * page_size()) as u32) };
        }
    }

    fn go(&self, rip: u64, count: usize, value: u32) -> f64 {
        // rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags
        let mut regs = [0u64; 18];
        (regs[1], regs[2], regs[3], regs[4]) = (LEAVE, count as u64, u64::from(value), LIST);
        (regs[16], regs[17]) = (rip, 2);
        assert_eq!(call(&self.cpu, KVM_SET_REGS, regs.as_mut_ptr()), 0);
        let begun = Instant::now();
        while number(&self.cpu, KVM_RUN, 0) != 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EINTR), "KVM_RUN: {error}");
        }
        let nanoseconds = begun.elapsed().as_nanos() as f64;
        let run = self.run.base;
        // SAFETY: exit_reason is at offset 8 of struct kvm_run, immediate_exit at 1.
        unsafe {
            let reason = run.add(8).cast::<u32>().read_volatile();
            assert_eq!(reason, KVM_EXIT_MMIO, "the guest left KVM_RUN by itself");
            // The store that left is completed, before the registers change.
            run.add(1).write_volatile(1);
            number(&self.cpu, KVM_RUN, 0);
            run.add(1).write_volatile(0);
        }
        nanoseconds
    }

    /// Reads the first `count` pages of the list. Returns nanoseconds.
    pub fn read(&self, count: usize) -> f64 {
        self.go(LOAD, count, 0)
    }

    /// Writes a value to the first `count` pages of the list. Returns nanoseconds.
    pub fn write(&self, count: usize, value: u32) -> f64 {
        self.go(STORE, count, value)
    }

    /// KVM's dirty log of the RAM: a bit for each page that the guest wrote since the last call.
    pub fn dirty_log(&self, bitmap: &mut Vec<u64>) {
        bitmap.clear();
        bitmap.resize(self.ram_bytes / page_size() / 64, 0);
        let mut argument = [0u64, bitmap.as_mut_ptr() as u64];
        let got = call(&self.machine, KVM_GET_DIRTY_LOG, argument.as_mut_ptr());
        assert_eq!(
            got,
            0,
            "KVM_GET_DIRTY_LOG: {}",
            std::io::Error::last_os_error()
        );
    }
}
