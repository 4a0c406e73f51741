//! A processor in VMX operation with a VMCS for a 64-bit guest, for tests that run a few guest
//! instructions and look at what comes of it.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(
    unreachable_pub,
    reason = "a module of test binaries has no other reader"
)]
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]
#![allow(missing_docs, reason = "fields and one-line readers")]

use std::sync::Arc;

use apic::apic_base::ApicMode;
use apic::routing::Identity;
use arch::control_register::{cr0, cr4, efer};
use arch::exit::ExitReason;
use arch::vmx_control::{entry, exit, pin, primary, secondary, tertiary};
use arch::{msr, vmcs};
use devices::pc::Pc;
use posthaste_machine::cpu::model::VirtualizationLevel;
use posthaste_machine::cpu::segment::{Segment, register, rights};
use posthaste_machine::cpu::{Cpu, CpuModel, Processor};
use posthaste_machine::memory::Ram;
use posthaste_machine::platform::{BusAgent, Platform};
use posthaste_machine::schedule::{Clock, Share};
use posthaste_machine::vtx::vmcs::{Component, Field, REVISION};

/// Page tables, identity-mapped for host and guest: PML4, PDPT, four page directories of 2-MByte
/// pages.
pub const TABLES: u64 = 0x1000;
/// The page table that maps the 2 MBytes of [`PAGES`] by 4-KByte pages.
pub const PAGE_TABLE: u64 = 0x9000;
/// Host code: a VMLAUNCH, and at [`HOST_RIP`] where exits arrive.
pub const HOST_CODE: u64 = 0x10_0000;
/// Where exits arrive: an infinite loop.
pub const HOST_RIP: u64 = 0x10_0100;
/// Guest code.
pub const GUEST_CODE: u64 = 0x10_1000;
/// Guest's IDT, 256 gates of 16 bytes.
pub const GUEST_IDT: u64 = 0x10_2000;
/// Guest's interrupt handlers, 16 bytes each: HLT.
pub const GUEST_HANDLERS: u64 = 0x10_4000;
/// Guest's GDT.
pub const GUEST_GDT: u64 = 0x10_6000;
/// Guest's stack.
pub const GUEST_STACK: u64 = 0x18_0000;
/// Memory mapped by 4-KByte pages.
pub const PAGES: u64 = 0x20_0000;
/// VMXON region.
pub const VMXON: u64 = PAGES;
/// VMCS region.
pub const VMCS: u64 = PAGES + 0x1000;
/// MSR bitmaps.
pub const MSR_BITMAP: u64 = PAGES + 0x2000;
/// I/O bitmaps A and B.
pub const IO_BITMAPS: u64 = PAGES + 0x3000;
/// Virtual-APIC page.
pub const VIRTUAL_APIC: u64 = PAGES + 0x5000;
/// APIC-access page.
pub const APIC_ACCESS: u64 = PAGES + 0x6000;
/// Posted-interrupt descriptors: the guest's own, then those of others, 64 bytes apart.
pub const DESCRIPTORS: u64 = PAGES + 0x7000;
/// PID-pointer table.
pub const PID_POINTERS: u64 = PAGES + 0x8000;
/// Memory for the test.
pub const DATA: u64 = PAGES + 0x9000;
/// EPT: PML4, PDPT, page directory, page table of the 2 MBytes at [`PAGES`].
pub const EPT: u64 = PAGES + 0x10_0000;
/// MSR index of the interrupt command register.
pub const ICR: u32 = 0x830;
/// MSR index of the self-IPI register.
pub const SELF_IPI: u32 = 0x83f;
/// "Outstanding notification" in a descriptor's control word.
pub const ON: u64 = 1;
/// "Suppress notification" there.
pub const SN: u64 = 2;

/// The processor under test.
pub struct Guest {
    pub processor: Processor,
}

fn identity(index: u32, mode: ApicMode) -> Identity {
    Identity {
        x2apic_id: index,
        xapic_id: index as u8,
        mode,
        logical_destination: 0,
        destination_format: u32::MAX,
        software_enabled: true,
        priority: 0,
    }
}

impl Guest {
    /// The guest at CPL 0 in 64-bit mode, about to execute `code`, with controls that intercept
    /// nothing that need not be. The physical local APIC is in x2APIC mode; processors 1 to 3
    /// exist as mailboxes only.
    pub fn new(code: &[u8]) -> Self {
        Self::with_model(code, CpuModel::default())
    }

    /// The same on a processor with these VT-x features.
    pub fn at_level(code: &[u8], virtualization: VirtualizationLevel) -> Self {
        Self::with_model(
            code,
            CpuModel {
                virtualization,
                ..CpuModel::default()
            },
        )
    }

    /// The same on a processor of any kind.
    pub fn with_model(code: &[u8], model: CpuModel) -> Self {
        let mut guest = Self::in_root(model);
        guest.store(GUEST_CODE, code);
        guest.run_root(&[
            0xf3, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x00, 0x31, 0x00, // vmxon [310000h]
            0x66, 0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x31, 0x00, // vmclear [310008h]
            0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x31, 0x00, // vmptrld [310008h]
        ]);
        guest.write_default_vmcs();
        guest
    }

    /// A processor that may execute VMXON and has not; the operands of VMXON and VMPTRLD are at
    /// 310000H.
    pub fn in_root(model: CpuModel) -> Self {
        let ram = Ram::new(8 << 20).unwrap();
        let modes = [ApicMode::X2apic; 4];
        let identities = (0..)
            .zip(modes)
            .map(|(i, mode)| identity(i, mode))
            .collect();
        let platform = Arc::new(Platform::new(
            ram,
            identities,
            Pc::new(),
            Box::new(std::io::sink()),
        ));
        let ram = platform.bus_agent();
        ram.store(TABLES, TABLES + 0x1000 | 7);
        for i in 0..4 {
            ram.store(TABLES + 0x1000 + i * 8, TABLES + 0x2000 + i * 0x1000 | 7);
        }
        for i in 0..2048 {
            ram.store(TABLES + 0x2000 + i * 8, i << 21 | 0x87);
        }
        ram.store(TABLES + 0x2000 + 8, PAGE_TABLE | 7);
        for i in 0..512 {
            ram.store(PAGE_TABLE + i * 8, PAGES + i * 4096 | 7);
        }
        ram.store(0x31_0000, VMXON);
        ram.store(0x31_0008, VMCS);
        ram.store(VMXON, REVISION);
        ram.store(VMCS, REVISION);
        ram.store(HOST_RIP, 0xfeeb_u16); // jmp $
        let clock = Clock::Deterministic(Share::ALONE);
        let mut cpu = Cpu::new(0, platform, Arc::new(model), clock);
        cpu.cr0 = cr0::PE | cr0::PG | cr0::NE | cr0::ET | cr0::MP | cr0::WP;
        cpu.cr3 = TABLES;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::VMXE;
        cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        let data = Segment {
            selector: 0x10,
            base: 0,
            limit: u32::MAX,
            rights: 0xc093,
        };
        for number in [0, 2, 3, 4, 5] {
            cpu.segments[number] = data;
        }
        cpu.segments[register::CS as usize] = Segment {
            selector: 8,
            rights: 0xa09b,
            ..data
        };
        cpu.msrs.feature_control = 5;
        cpu.refresh_mode();
        let mut guest = Self {
            processor: Processor::new(cpu),
        };
        let base = guest.cpu().apic_msr_read(msr::IA32_APIC_BASE);
        let base = base.unwrap() | msr::apic_base::EXTD;
        guest
            .cpu()
            .apic_msr_write(msr::IA32_APIC_BASE, base)
            .unwrap();
        guest
            .cpu()
            .apic_msr_write(msr::IA32_X2APIC_SIVR, 0x1ff)
            .unwrap();
        guest
    }

    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.processor.cpu
    }

    pub fn ram(&self) -> BusAgent<'_> {
        self.processor.cpu.platform.bus_agent()
    }

    pub fn store(&self, address: u64, bytes: &[u8]) {
        self.ram().write_bytes(address, bytes);
    }

    /// Puts `code` (followed by a loop) at [`HOST_CODE`] and runs it in VMX root operation.
    pub fn run_root(&mut self, code: &[u8]) {
        self.store(HOST_CODE, code);
        self.store(HOST_CODE + code.len() as u64, &[0xeb, 0xfe]);
        self.cpu().set_rip(HOST_CODE);
        self.cpu().look_at_events();
        self.run(20);
    }

    /// Executes VMLAUNCH and then runs at most `count` instructions, the launch among them, until
    /// the guest is left.
    pub fn launch(&mut self, count: u64) {
        self.enter([0x0f, 0x01, 0xc2], count);
    }

    /// The same with VMRESUME.
    pub fn resume(&mut self, count: u64) {
        self.enter([0x0f, 0x01, 0xc3], count);
    }

    fn enter(&mut self, code: [u8; 3], count: u64) {
        self.store(HOST_CODE, &code);
        self.store(HOST_CODE + 3, &[0xeb, 0xfe]);
        self.cpu().set_rip(HOST_CODE);
        self.cpu().look_at_events();
        self.run(1);
        self.go_on(count - 1);
    }

    /// Goes on in the guest for at most `count` instructions or until it is left.
    pub fn go_on(&mut self, count: u64) {
        for _ in 0..count {
            if !self.processor.cpu.vmx.non_root {
                break;
            }
            self.run(1);
        }
    }

    /// Runs `count` instructions.
    pub fn run(&mut self, count: u64) {
        let cpu = &mut self.processor.cpu;
        cpu.single_step = true;
        cpu.slice_end = cpu.instructions + count;
        self.processor.run();
        let cpu = &mut self.processor.cpu;
        if !cpu.vmx.non_root {
            cpu.single_step = false;
        }
    }

    pub fn get<F: Field>(&self, field: F) -> F::Value {
        field.get(&self.ram(), VMCS)
    }

    pub fn set<F: Field>(&mut self, field: F, value: F::Value) -> &mut Self {
        field.set(&mut self.ram(), VMCS, value);
        self
    }

    /// Writes a field by its encoding, as VMWRITE does.
    pub fn write(&mut self, encoding: u32, value: u64) -> &mut Self {
        let component = Component::decode(encoding.into(), &self.processor.cpu.model);
        component.unwrap().write(&mut self.ram(), VMCS, value);
        self
    }

    pub fn add_pin(&mut self, bits: u32) -> &mut Self {
        let old = self.get(vmcs::PIN_BASED_CONTROLS);
        self.set(vmcs::PIN_BASED_CONTROLS, old | bits)
    }

    pub fn add_primary(&mut self, bits: u32) -> &mut Self {
        let old = self.get(vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS);
        self.set(vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS, old | bits)
    }

    pub fn remove_primary(&mut self, bits: u32) -> &mut Self {
        let old = self.get(vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS);
        self.set(vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS, old & !bits)
    }

    pub fn add_secondary(&mut self, bits: u32) -> &mut Self {
        self.add_primary(primary::ACTIVATE_SECONDARY_CONTROLS);
        let old = self.get(vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS);
        self.set(vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS, old | bits)
    }

    pub fn remove_secondary(&mut self, bits: u32) -> &mut Self {
        let old = self.get(vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS);
        self.set(vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS, old & !bits)
    }

    pub fn add_tertiary(&mut self, bits: u64) -> &mut Self {
        self.add_primary(primary::ACTIVATE_TERTIARY_CONTROLS);
        let old = self.get(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS);
        self.set(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS, old | bits)
    }

    pub fn add_exit(&mut self, bits: u32) -> &mut Self {
        let old = self.get(vmcs::EXIT_CONTROLS);
        self.set(vmcs::EXIT_CONTROLS, old | bits)
    }

    /// The guest was left for `reason`, and its qualification.
    #[track_caller]
    pub fn expect_exit(&self, reason: ExitReason) -> u64 {
        assert!(!self.processor.cpu.vmx.non_root, "still in the guest");
        let found = self.get(vmcs::EXIT_REASON);
        let rule = self.processor.cpu.vmx.last_violation;
        assert_eq!(
            found,
            reason as u32,
            "exit reason {:?}, qualification {:#x}, entry {rule:?}, guest RIP {:#x}",
            ExitReason::from_number(found as u16),
            self.get(vmcs::EXIT_QUALIFICATION),
            self.get(vmcs::GUEST_RIP),
        );
        self.get(vmcs::EXIT_QUALIFICATION)
    }

    /// The guest still runs, or was left by HLT, which the code ends with.
    #[track_caller]
    pub fn expect_no_exit(&self) {
        let rule = self.processor.cpu.vmx.last_violation;
        assert!(
            self.processor.cpu.vmx.non_root,
            "exit {:?} qualification {:#x} at {:#x}, entry {rule:?}",
            ExitReason::from_number(self.get(vmcs::EXIT_REASON) as u16),
            self.get(vmcs::EXIT_QUALIFICATION),
            self.get(vmcs::GUEST_RIP),
        );
    }

    /// VM entry failed with VMfailValid and this number.
    #[track_caller]
    pub fn expect_fail(&self, number: u32) {
        let cpu = &self.processor.cpu;
        assert!(!cpu.vmx.non_root, "entered");
        assert_eq!(cpu.rflags() & 0x8d5, 0x40, "not VMfailValid");
        assert_eq!(self.get(vmcs::INSTRUCTION_ERROR), number);
    }

    /// The vectors that processor `index` was sent.
    pub fn received(&self, index: usize) -> Vec<u8> {
        let taken = self.processor.cpu.platform.inboxes[index].mailbox.take();
        taken.vectors().map(|(vector, _)| vector).collect()
    }

    pub fn virtual_apic(&self, offset: u64) -> u32 {
        self.ram().load(VIRTUAL_APIC + offset)
    }

    pub fn set_virtual_apic(&self, offset: u64, value: u32) {
        self.ram().store(VIRTUAL_APIC + offset, value);
    }

    /// The vectors requested in descriptor `number`.
    pub fn posted(&self, number: u64) -> Vec<u8> {
        let at = DESCRIPTORS + number * 64;
        (0..=255u8)
            .filter(|v| self.ram().load::<u8>(at + u64::from(v / 8)) >> (v % 8) & 1 != 0)
            .collect()
    }

    /// The control word of descriptor `number`.
    pub fn descriptor_control(&self, number: u64) -> u64 {
        self.ram().load(DESCRIPTORS + number * 64 + 32)
    }

    pub fn set_descriptor_control(&self, number: u64, value: u64) {
        self.ram().store(DESCRIPTORS + number * 64 + 32, value);
    }

    /// TPR shadow, VID and APIC-register virtualization, with external-interrupt exiting.
    pub fn with_apic_virtualization(&mut self) -> &mut Self {
        self.add_pin(pin::EXTERNAL_INTERRUPT_EXITING);
        self.add_primary(primary::USE_TPR_SHADOW);
        self.add_secondary(
            secondary::APIC_REGISTER_VIRTUALIZATION | secondary::VIRTUAL_INTERRUPT_DELIVERY,
        );
        self.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC)
    }

    /// IPI virtualization: four entries, of which 0 to 2 are valid. The notification vector is E0H
    /// plus the number, to the processor with that number.
    pub fn with_ipi_virtualization(&mut self) -> &mut Self {
        for i in 0..3_u64 {
            self.ram()
                .store(PID_POINTERS + i * 8, DESCRIPTORS + i * 64 | 1);
            self.set_descriptor_control(i, (0xe0 + i) << 16 | i << 32);
        }
        self.add_tertiary(tertiary::IPI_VIRTUALIZATION);
        self.set(vmcs::PID_POINTER_TABLE_ADDRESS, PID_POINTERS);
        self.set(vmcs::LAST_PID_POINTER_INDEX, 3)
    }

    /// Config X2 of ipi-virtualization.md.
    pub fn with_x2apic(&mut self) -> &mut Self {
        self.with_apic_virtualization();
        self.add_secondary(secondary::VIRTUALIZE_X2APIC_MODE);
        self.with_ipi_virtualization()
    }

    /// Config X1 of ipi-virtualization.md.
    pub fn with_xapic(&mut self) -> &mut Self {
        self.with_apic_virtualization();
        self.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
        self.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
        self.with_ipi_virtualization()
    }

    /// Posted-interrupt processing with the descriptor 0 and notification vector E0H.
    pub fn with_posted_interrupts(&mut self) -> &mut Self {
        self.add_pin(pin::PROCESS_POSTED_INTERRUPTS);
        self.add_exit(exit::ACKNOWLEDGE_INTERRUPT);
        self.set(vmcs::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xe0);
        self.set(vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, DESCRIPTORS)
    }

    /// EPT that maps the first GByte to itself: 2-MByte pages, but 4-KByte pages at [`PAGES`].
    pub fn with_ept(&mut self) -> &mut Self {
        let ram = self.ram();
        ram.store(EPT, EPT + 0x1000 | 7);
        ram.store(EPT + 0x1000, EPT + 0x2000 | 7);
        for i in 0..512 {
            ram.store(EPT + 0x2000 + i * 8, i << 21 | 0xb7);
            ram.store(EPT + 0x3000 + i * 8, PAGES + i * 4096 | 0x37);
        }
        ram.store(EPT + 0x2008, EPT + 0x3000 | 7);
        self.add_secondary(secondary::ENABLE_EPT);
        self.set(vmcs::EPT_POINTER, EPT | 0x1e)
    }

    /// Sets the interrupt flag of the guest.
    pub fn with_interrupts_enabled(&mut self) -> &mut Self {
        self.set(vmcs::GUEST_RFLAGS, 0x202)
    }

    fn write_default_vmcs(&mut self) {
        let model = self.processor.cpu.model.clone();
        let capability = posthaste_machine::vtx::capabilities::pin_based(&model).must_be_1;
        self.set(vmcs::PIN_BASED_CONTROLS, capability | pin::NMI_EXITING);
        let capability = posthaste_machine::vtx::capabilities::primary(&model).must_be_1;
        self.set(
            vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS,
            capability | primary::USE_MSR_BITMAPS,
        );
        let capability = posthaste_machine::vtx::capabilities::exit_controls(&model).must_be_1;
        self.set(
            vmcs::EXIT_CONTROLS,
            capability | exit::HOST_ADDRESS_SPACE_SIZE | exit::SAVE_EFER | exit::LOAD_EFER,
        );
        let capability = posthaste_machine::vtx::capabilities::entry_controls(&model).must_be_1;
        self.set(
            vmcs::ENTRY_CONTROLS,
            capability | entry::IA32E_MODE_GUEST | entry::LOAD_EFER,
        );
        self.set(vmcs::MSR_BITMAP, MSR_BITMAP);
        self.set(vmcs::IO_BITMAP_A, IO_BITMAPS);
        self.set(vmcs::IO_BITMAP_B, IO_BITMAPS + 0x1000);
        self.set(vmcs::VMCS_LINK_POINTER, u64::MAX);
        self.write_host_state();
        self.write_guest_state();
    }

    fn write_host_state(&mut self) {
        let (cr0, cr3, cr4, efer) = {
            let cpu = self.cpu();
            (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer)
        };
        self.set(vmcs::HOST_CR0, cr0)
            .set(vmcs::HOST_CR3, cr3)
            .set(vmcs::HOST_CR4, cr4)
            .set(vmcs::HOST_EFER, efer)
            .set(vmcs::HOST_CS_SELECTOR, 8)
            .set(vmcs::HOST_SS_SELECTOR, 0x10)
            .set(vmcs::HOST_TR_SELECTOR, 0x18)
            .set(vmcs::HOST_RSP, 0x17_0000)
            .set(vmcs::HOST_RIP, HOST_RIP);
    }

    fn write_guest_state(&mut self) {
        let (cr0, cr3, cr4, efer) = {
            let cpu = self.cpu();
            (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer)
        };
        self.set(vmcs::GUEST_CR0, cr0)
            .set(vmcs::GUEST_CR3, cr3)
            .set(vmcs::GUEST_CR4, cr4)
            .set(vmcs::GUEST_EFER, efer)
            .set(vmcs::GUEST_DR7, 0x400);
        for field in 0..6 {
            let (selector, access) = if field == 1 {
                (8, 0xa09b)
            } else {
                (0x10, 0xc093)
            };
            self.write(0x0800 + field * 2, selector);
            self.write(0x4800 + field * 2, 0xffff_ffff);
            self.write(0x4814 + field * 2, access);
        }
        self.set(vmcs::GUEST_LDTR_ACCESS_RIGHTS, rights::UNUSABLE)
            .set(vmcs::GUEST_TR_SELECTOR, 0x18)
            .set(vmcs::GUEST_TR_LIMIT, 0x67)
            .set(vmcs::GUEST_TR_ACCESS_RIGHTS, 0x8b)
            .set(vmcs::GUEST_GDTR_BASE, GUEST_GDT)
            .set(vmcs::GUEST_GDTR_LIMIT, 0x27)
            .set(vmcs::GUEST_IDTR_BASE, GUEST_IDT)
            .set(vmcs::GUEST_IDTR_LIMIT, 0xfff)
            .set(vmcs::GUEST_RIP, GUEST_CODE)
            .set(vmcs::GUEST_RSP, GUEST_STACK)
            .set(vmcs::GUEST_RFLAGS, 2);
        let ram = self.ram();
        ram.store(GUEST_GDT + 8, 0x00af_9b00_0000_ffff_u64);
        ram.store(GUEST_GDT + 16, 0x00cf_9300_0000_ffff_u64);
        for vector in 0..256 {
            let handler = GUEST_HANDLERS + vector * 16;
            ram.store(handler, 0xf4_u8);
            let gate = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
            ram.store(GUEST_IDT + vector * 16, gate);
            ram.store(GUEST_IDT + vector * 16 + 8, handler >> 32);
        }
    }

    /// The vector whose handler the guest is about to execute or halted in.
    pub fn handler(&self) -> Option<u8> {
        let offset = self.processor.cpu.rip().checked_sub(GUEST_HANDLERS)?;
        (offset < 4096).then_some((offset / 16) as u8)
    }
}

/// Code: `mov ecx, msr; mov eax, low; mov edx, high; wrmsr; hlt`.
pub fn write_msr(msr: u32, value: u64) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(msr.to_le_bytes());
    code.push(0xb8);
    code.extend((value as u32).to_le_bytes());
    code.push(0xba);
    code.extend(((value >> 32) as u32).to_le_bytes());
    code.extend([0x0f, 0x30, 0xf4]);
    code
}

/// Code: `mov ecx, msr; rdmsr; hlt`.
pub fn read_msr(msr: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(msr.to_le_bytes());
    code.extend([0x0f, 0x32, 0xf4]);
    code
}

/// Code: `mov dword [address], value`.
pub fn store_u32(address: u64, value: u32) -> Vec<u8> {
    let mut code = vec![0xc7, 0x04, 0x25];
    code.extend((address as u32).to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

/// Code: `mov byte [address], value`.
pub fn store_u8(address: u64, value: u8) -> Vec<u8> {
    let mut code = vec![0xc6, 0x04, 0x25];
    code.extend((address as u32).to_le_bytes());
    code.push(value);
    code
}

/// Code: `mov word [address], value`.
pub fn store_u16(address: u64, value: u16) -> Vec<u8> {
    let mut code = vec![0x66, 0xc7, 0x04, 0x25];
    code.extend((address as u32).to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

/// Code: `mov qword [address], value` (sign-extended).
pub fn store_u64(address: u64, value: u32) -> Vec<u8> {
    let mut code = vec![0x48, 0xc7, 0x04, 0x25];
    code.extend((address as u32).to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

/// Code: `mov eax, [address]`.
pub fn load_u32(address: u64) -> Vec<u8> {
    let mut code = vec![0x8b, 0x04, 0x25];
    code.extend((address as u32).to_le_bytes());
    code
}

/// Several pieces of code, then HLT.
pub fn program(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut code = pieces.concat();
    code.push(0xf4);
    code
}

/// Config X2 of ipi-virtualization.md around `code`.
pub fn x2(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.with_x2apic();
    guest
}

/// Config X1 of ipi-virtualization.md around `code`.
pub fn x1(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.with_xapic();
    guest
}

/// A value for the interrupt command register.
pub fn command(destination: u32, low: u32) -> u64 {
    u64::from(destination) << 32 | u64::from(low)
}

/// The virtualized interrupt command register.
pub fn vicr(guest: &Guest) -> u64 {
    u64::from(guest.virtual_apic(0x300)) | u64::from(guest.virtual_apic(0x304)) << 32
}

/// Nothing was posted and nobody was notified.
#[track_caller]
pub fn nothing_sent(guest: &Guest) {
    for i in 0..4 {
        assert_eq!(guest.posted(i), [], "descriptor {i}");
        assert_eq!(guest.descriptor_control(i) & ON, 0, "descriptor {i}");
        assert_eq!(guest.received(i as usize), [], "processor {i}");
    }
}
