/* qemu.h - one unmodified QEMU as a child process: its life, its monitor (QMP), and its guest's console. */
#ifndef QEMU_H
#define QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINE 256    /* room for one line of the guest's console, NUL included */

struct guest {
    const char *qemu, *kernel, *initramfs;
    const char *memory;     /* the file that is its RAM */
    uint64_t memory_bytes;
};

/* Prints what failed and the console's last lines, kills QEMU, and ends the program with status 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void say(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t milliseconds(void);

/* Starts QEMU; it boots the kernel, or, incoming, waits for a device state. It dies with this process. */
void qemu_start(const struct guest *guest, bool incoming);
void qemu_kill(void);
void qemu_stop(void);
void qemu_continue(void);
/* Moves the state of all devices, and of no RAM that is in `memory`, into an empty file, or out of one. Stopped. */
void qemu_save(int file);
void qemu_load(int file);

/* The console's next whole line, waited for `seconds` at most; valid until the next call. */
const char *console_line(int seconds);
/* The next whole line if there is one, without waiting, else NULL; then `console_rest` is the beginning of the next. */
const char *console_line_there(void);
const char *console_rest(void);
/* What the guest of a fresh QEMU had said of a line when its device state was saved. */
void console_begin(const char *rest);
void console_type(const char *word);

#endif
