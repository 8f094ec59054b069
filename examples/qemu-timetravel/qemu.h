/* qemu.h - one unmodified QEMU as a child process: its life, its monitor (QMP), and its guest's console. */
#ifndef QEMU_H
#define QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINE 256    /* room for one line of the guest's console, NUL included */

struct guest {
    const char *qemu, *kernel, *initramfs;
    const char *memory;     /* the file of the guest's RAM */
    uint64_t memory_bytes;
};

/* Prints what failed and the console's last lines, kills QEMU, and ends the program with status 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t milliseconds(void);

/* Starts QEMU. QEMU boots the kernel or, with `incoming`, waits for a device state. QEMU ends with this process. */
void qemu_start(const struct guest *guest, bool incoming);
void qemu_kill(void);
void qemu_stop(void);
void qemu_continue(void);
/* Writes the state of all devices into an empty file, or loads it. RAM in `memory` is left out. QEMU is stopped. */
void qemu_save(int file);
void qemu_load(int file);

/* The console's next whole line, after at most `seconds`. Valid until the next call. */
const char *console_line(int seconds);
/* The next whole line, without waiting, or NULL: then `console_rest` is the beginning of the next line. */
const char *console_line_there(void);
const char *console_rest(void);
/* The beginning of a line that the guest had printed when its device state was saved. */
void console_begin(const char *rest);
void console_type(const char *word);

#endif
