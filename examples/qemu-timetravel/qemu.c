/* qemu.c - one unmodified QEMU as a child process: its life, its monitor (QMP), and its guest's console. */
#define _GNU_SOURCE
#include "qemu.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MONITOR_SECONDS 60      /* for the answer to one command: the machine can be slow */

/* Text that came from QEMU through a socket and is not used yet. */
struct channel {
    const char *name;
    int fd;
    size_t taken, used;
    char text[65536];
};

static pid_t qemu;      /* 0: none */
static struct channel monitor = { .name = "monitor" }, console = { .name = "console" };
static char tail[2048]; /* the last of what the console said, for error messages */
static char line[LINE];

/* ---- Saying and failing ------------------------------------------------------------------------ */
void say(const char *what, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("   %-9s ", what);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("   %-9s ", "FAILED");
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    if (qemu || *tail)
        printf("   %-9s %s\n%s", "console", *tail ? "its end:" : "it was silent", tail);
    if (qemu)
        kill(qemu, SIGKILL);
    exit(1);
}

uint64_t milliseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- Lines through a socket -------------------------------------------------------------------- */
static void remember(const char *text, size_t bytes)
{
    size_t old = strlen(tail), room = sizeof tail - 1;
    if (bytes > room)
        text += bytes - room, bytes = room;
    if (old + bytes > room) {
        memmove(tail, tail + old + bytes - room, room - bytes);
        old = room - bytes;
    }
    memcpy(tail + old, text, bytes);
    tail[old + bytes] = 0;
}

/* Reads the text that is there. When QEMU closes a socket, it has ended or ends soon: that is a failure. */
static void receive(struct channel *channel)
{
    memmove(channel->text, channel->text + channel->taken, channel->used - channel->taken);
    channel->used -= channel->taken, channel->taken = 0;
    size_t room = sizeof channel->text - 1 - channel->used;
    char *end = channel->text + channel->used;
    if (room == 0)
        fail("a line of %zu bytes from QEMU's %s", channel->used, channel->name);
    ssize_t got = recv(channel->fd, end, room, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        int status = 0, tries = 0;
        while (waitpid(qemu, &status, WNOHANG) == 0)
            if (tries++ < 100)
                usleep(10000);
            else
                fail("QEMU closed its %s and does not end", channel->name);
        qemu = 0;
        fail("QEMU closed its %s; it ended with %s %d", channel->name, WIFSIGNALED(status) ? "signal" : "status",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    if (channel == &console)
        remember(end, (size_t)got);
    channel->used += (size_t)got;
    channel->text[channel->used] = 0;
}

/* The next whole line that was received, without its end, or NULL. Valid until the next `receive`. */
static char *next_line(struct channel *channel)
{
    char *begin = channel->text + channel->taken, *end = memchr(begin, '\n', channel->used - channel->taken);
    if (!end)
        return NULL;
    channel->taken = (size_t)(end + 1 - channel->text);
    if (end > begin && end[-1] == '\r')
        end--;
    *end = 0;
    return begin;
}

static char *wait_line(struct channel *channel, int seconds)
{
    uint64_t now, limit = milliseconds() + (uint64_t)seconds * 1000;
    char *next;
    while (!(next = next_line(channel))) {
        struct pollfd waited = { .fd = channel->fd, .events = POLLIN };
        if ((now = milliseconds()) >= limit)
            fail("QEMU's %s said nothing for %d s", channel->name, seconds);
        if (poll(&waited, 1, (int)(limit - now)) > 0)
            receive(channel);
    }
    return next;
}

/* ---- The monitor: one command, one answer ------------------------------------------------------ */

/* Sends a command, and with it a descriptor if that is not negative. */
static void command(const char *text, int passed)
{
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control = { .room = { 0 } };
    struct iovec bytes = { .iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text) };
    struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1 };
    if (passed >= 0) {
        message.msg_control = control.room, message.msg_controllen = sizeof control.room;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &passed, sizeof passed);
    }
    if (sendmsg(monitor.fd, &message, MSG_NOSIGNAL) != (ssize_t)bytes.iov_len)
        fail("QEMU's monitor does not take %s: %s", text, strerror(errno));
}

/* The answer to the last command. Events in between are skipped. */
static const char *answer(const char *text)
{
    for (;;) {
        const char *said = wait_line(&monitor, MONITOR_SECONDS);
        if (strncmp(said, "{\"return\"", 9) == 0)
            return said;
        if (strncmp(said, "{\"error\"", 8) == 0)
            fail("QEMU refuses %s: %s", text, said);
    }
}

static const char *ask(const char *text)
{
    command(text, -1);
    return answer(text);
}

/* Passes a file to QEMU under the name `state`, and lets QEMU migrate to the file, or from it. */
static void migrate(int file, const char *text)
{
    const char *getfd = "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}}", *said;
    uint64_t limit = milliseconds() + MONITOR_SECONDS * 1000;
    command(getfd, file);
    answer(getfd);
    ask(text);
    while (!strstr(said = ask("{\"execute\":\"query-migrate\"}"), "\"status\": \"completed\"")) {
        if (strstr(said, "\"status\": \"failed\"") || milliseconds() > limit)
            fail("after %s QEMU says %s", text, said);
        usleep(2000);
    }
}

void qemu_save(int file) { migrate(file, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:state\"}}"); }
void qemu_load(int file) { migrate(file, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:state\"}}"); }
void qemu_stop(void) { ask("{\"execute\":\"stop\"}"); }
void qemu_continue(void) { ask("{\"execute\":\"cont\"}"); }

/* ---- The process ------------------------------------------------------------------------------- */

/* Makes a socket for a new QEMU and returns QEMU's end. */
static int channel_open(struct channel *channel)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        fail("no socket for QEMU's %s: %s", channel->name, strerror(errno));
    channel->fd = ends[0], channel->taken = channel->used = 0;
    return ends[1];
}

void qemu_start(const struct guest *guest, bool incoming)
{
    static bool shown;
    char memory[4352], megabytes[32], monitor_end[64], console_end[64];
    int ends[2] = { channel_open(&monitor), channel_open(&console) };
    snprintf(megabytes, sizeof megabytes, "%luM", guest->memory_bytes >> 20);
    snprintf(memory, sizeof memory, "memory-backend-file,id=ram,size=%s,mem-path=%s,share=on,prealloc=off,discard-data=off",
             megabytes, guest->memory);
    snprintf(monitor_end, sizeof monitor_end, "socket,id=qmp,fd=%d", ends[0]);
    snprintf(console_end, sizeof console_end, "socket,id=console,fd=%d", ends[1]);
    const char *arguments[] = {
        guest->qemu, "-accel", "tcg", "-machine", "q35,memory-backend=ram", "-m", megabytes, "-object", memory,
        "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot", "-rtc", "clock=vm",
        "-chardev", monitor_end, "-mon", "chardev=qmp,mode=control", "-chardev", console_end, "-serial", "chardev:console",
        "-kernel", guest->kernel, "-initrd", guest->initramfs, "-append", "console=ttyS0 quiet loglevel=1 panic=-1",
        incoming ? "-S" : NULL, "-incoming", "defer", NULL,
    };
    if (!shown) {
        printf("   %-9s", "command");
        for (size_t i = 0; arguments[i]; i++)
            printf(strpbrk(arguments[i], " ") ? " '%s'" : " %s", arguments[i]);
        putchar('\n');
        shown = true;
    }
    fflush(stdout);
    pid_t parent = getpid();
    if ((qemu = fork()) < 0)
        qemu = 0, fail("no process for QEMU: %s", strerror(errno));
    if (qemu == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);   /* when this process ends, QEMU ends too */
        if (getppid() == parent && !fcntl(ends[0], F_SETFD, 0) && !fcntl(ends[1], F_SETFD, 0))
            execvp(guest->qemu, (char **)(uintptr_t)arguments);
        fprintf(stderr, "%s does not start: %s\n", guest->qemu, strerror(errno));
        _exit(127);
    }
    close(ends[0]), close(ends[1]);
    wait_line(&monitor, MONITOR_SECONDS);   /* the monitor's greeting */
    ask("{\"execute\":\"qmp_capabilities\"}");
    ask("{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
        "[{\"capability\":\"x-ignore-shared\",\"state\":true}]}}");
}

void qemu_kill(void)
{
    kill(qemu, SIGKILL);
    if (waitpid(qemu, NULL, 0) != qemu)
        fail("QEMU cannot be waited for: %s", strerror(errno));
    qemu = 0;
    close(monitor.fd), close(console.fd);
}

/* ---- The console ------------------------------------------------------------------------------- */
static const char *take(const char *text)
{
    if (strlen(text) >= sizeof line)
        fail("the console's line is too long: %s", text);
    return strcpy(line, text);
}

const char *console_line(int seconds) { return take(wait_line(&console, seconds)); }

const char *console_line_there(void)
{
    size_t before;
    char *next;
    while (!(next = next_line(&console))) {
        before = console.used - console.taken;
        receive(&console);
        if (console.used - console.taken == before)
            return NULL;
    }
    return take(next);
}

const char *console_rest(void)
{
    console.text[console.used] = 0;
    return take(console.text + console.taken);
}

void console_begin(const char *rest)
{
    console.used = strlen(strcpy(console.text, rest));
    remember(rest, console.used);
}

void console_type(const char *word)
{
    size_t bytes = strlen(word);
    if (send(console.fd, word, bytes, MSG_NOSIGNAL) != (ssize_t)bytes || send(console.fd, "\n", 1, MSG_NOSIGNAL) != 1)
        fail("QEMU's console does not take \"%s\": %s", word, strerror(errno));
}
