/* The yardstick: the least that a server can do for the same frames. `epoll_server PORT`.
 *
 * It knows no identity, no log and no HTTP: any request is an upgrade, and any frame is a pace,
 * "RATE BURST EVENTS". Events are said BURST at a time in one write: RATE a second, or with RATE 0
 * once for each pass of the loop. EVENTS 0 has no end; otherwise a RUN_FINISHED follows the last.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 20000, BURST_MAX = 64, FRAME_MAX = 512, REQUEST_MAX = 4096 };
#define NS_PER_S 1000000000LL

static const char ANSWER[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

typedef struct {
    int fd, is_upgraded, is_blocked, burst, place; /* place: in `eager` or `waiting`; -1: in none */
    int64_t due_ns, period_ns;                     /* of a burst; no period: as often as it can */
    uint64_t seq, left;
    int has_end;
    char *rest; /* what the socket did not take yet */
    size_t rest_len, rest_at;
} Connection;

static int poller;
static Connection *eager[CONNECTIONS_MAX];
static int eager_count;
static Connection *waiting[CONNECTIONS_MAX]; /* a heap: the one that is due first is the first */
static int waiting_count;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void put(int place, Connection *connection) {
    waiting[place] = connection;
    connection->place = place;
}

static void rise(int place, Connection *connection) {
    for (int above; place && waiting[above = (place - 1) / 2]->due_ns > connection->due_ns; place = above)
        put(place, waiting[above]);
    put(place, connection);
}

static void sink(int place, Connection *connection) {
    for (int below; (below = 2 * place + 1) < waiting_count; place = below) {
        if (below + 1 < waiting_count && waiting[below + 1]->due_ns < waiting[below]->due_ns) below++;
        if (waiting[below]->due_ns >= connection->due_ns) break;
        put(place, waiting[below]);
    }
    put(place, connection);
}

static void resume(Connection *connection) {
    if (connection->period_ns) {
        rise(waiting_count++, connection);
    } else {
        connection->place = eager_count;
        eager[eager_count++] = connection;
    }
}

static void pause_(Connection *connection) {
    int place = connection->place;
    connection->place = -1;
    if (place < 0) return;
    if (!connection->period_ns) {
        eager[place] = eager[--eager_count];
        eager[place]->place = eager[place] == connection ? -1 : place;
    } else if (place < --waiting_count) {
        Connection *moved = waiting[waiting_count];
        rise(place, moved);
        sink(moved->place, moved);
    }
}

static char *put_number(char *at, uint64_t value) {
    char digits[24];
    int count = 0;
    do digits[count++] = '0' + value % 10;
    while (value /= 10);
    while (count) *at++ = digits[--count];
    return at;
}

static char *put_text(char *at, const char *text, size_t size) { return (char *)memcpy(at, text, size) + size; }
#define PUT(text) at = put_text(at, text, sizeof text - 1)

static char *put_event(char *frame, uint64_t seq, int64_t due_ns, int64_t said_ns) {
    char *at = frame + 4;
    PUT("{\"id\":\"5d1c0e9ab2f47a31-");
    at = put_number(at, seq);
    PUT("\",\"chunk\":{\"type\":");
    if (due_ns) {
        PUT("\"TEXT_MESSAGE_CONTENT\",\"messageId\":\"msg_0b9d4e6c-5e1f-4c3a-9d2b-7f6e5d4c3b2a\",\"delta\":\"due=");
        at = put_number(at, due_ns);
        PUT(" at=");
        at = put_number(at, said_ns);
        PUT(" \"},\"threadId\":\"t123-1\",\"runId\":\"r123-1\"}");
    } else {
        PUT("\"RUN_FINISHED\"},\"threadId\":\"t123-1\",\"runId\":\"r123-1\",\"outcome\":{\"type\":\"success\"}}");
    }
    size_t size = at - frame - 4; /* between 126 and 65535, so that the head has four bytes */
    frame[0] = (char)0x81;
    frame[1] = 126;
    frame[2] = size >> 8;
    frame[3] = size & 0xff;
    return at;
}

static void watch(Connection *connection, int operation, uint32_t wanted) {
    struct epoll_event event = {.events = wanted, .data.ptr = connection};
    epoll_ctl(poller, operation, connection->fd, &event);
}

static void send_all(Connection *connection, const char *data, size_t size) {
    ssize_t sent = write(connection->fd, data, size);
    if (sent < 0) sent = 0; /* when the connection is lost, epoll says so */
    if ((size_t)sent == size) return;
    connection->rest = malloc(size - sent);
    connection->rest_len = size - sent;
    connection->rest_at = 0;
    memcpy(connection->rest, data + sent, size - sent);
    connection->is_blocked = 1;
    pause_(connection);
    watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void speak(Connection *connection, int64_t due_ns) {
    char frames[(BURST_MAX + 1) * FRAME_MAX], *at = frames;
    for (int count = 0; count < connection->burst && (!connection->has_end || connection->left); count++) {
        int64_t said_ns = now_ns();
        at = put_event(at, ++connection->seq, due_ns ? due_ns : said_ns, said_ns);
        connection->left--;
    }
    if (connection->has_end && !connection->left) {
        at = put_event(at, ++connection->seq, 0, 0);
        pause_(connection);
    }
    send_all(connection, frames, at - frames);
}

static void flush_rest(Connection *connection) {
    ssize_t sent = write(connection->fd, connection->rest + connection->rest_at,
                         connection->rest_len - connection->rest_at);
    if (sent > 0) connection->rest_at += sent;
    if (connection->rest_at < connection->rest_len) return;
    free(connection->rest);
    connection->is_blocked = 0;
    watch(connection, EPOLL_CTL_MOD, EPOLLIN);
    if (!connection->has_end || connection->left) resume(connection);
}

/* Begin what a frame asks for. The generator masks with zeros, so the text is plain. */
static void answer(Connection *connection, const char *frame) {
    static uint64_t asked;
    double rate;
    unsigned long events;
    int burst;
    if (sscanf(frame + 6, "%lf %d %lu", &rate, &burst, &events) != 3) return;
    connection->burst = burst < 1 ? 1 : burst > BURST_MAX ? BURST_MAX : burst;
    connection->left = events;
    connection->has_end = events > 0;
    connection->period_ns = rate > 0 ? (int64_t)(NS_PER_S / rate * connection->burst) : 0;
    connection->due_ns = now_ns() + connection->period_ns / 1000 * (++asked * 7919 % 1000);
    resume(connection);
}

static void forget(Connection *connection) {
    pause_(connection);
    close(connection->fd);
    if (connection->is_blocked) free(connection->rest);
    free(connection);
}

static void receive(Connection *connection) {
    char data[REQUEST_MAX + 1];
    ssize_t got = read(connection->fd, data, REQUEST_MAX);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        forget(connection);
        return;
    }
    data[got] = 0;
    if (!connection->is_upgraded) {
        connection->is_upgraded = 1;
        send_all(connection, ANSWER, sizeof ANSWER - 1);
    } else if ((data[0] & 15) == 1) {
        answer(connection, data);
    }
}

static void accept_all(int listener) {
    int one = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        Connection *connection = calloc(1, sizeof *connection);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection->fd = fd;
        connection->place = -1;
        watch(connection, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) {
        perror("listen");
        exit(1);
    }
    return listener;
}

/* Until when the loop may wait: not at all, until the next burst, or for ever. */
static struct timespec *find_wait(struct timespec *wait) {
    if (!eager_count && !waiting_count) return NULL;
    int64_t wait_ns = eager_count ? 0 : waiting[0]->due_ns - now_ns();
    if (wait_ns < 0) wait_ns = 0;
    wait->tv_sec = wait_ns / NS_PER_S;
    wait->tv_nsec = wait_ns % NS_PER_S;
    return wait;
}

static void speak_in_turn(void) {
    for (int place = eager_count; place--;)
        if (place < eager_count) speak(eager[place], 0);
    int64_t time_ns = now_ns();
    while (waiting_count && waiting[0]->due_ns <= time_ns) {
        Connection *connection = waiting[0];
        int64_t due_ns = connection->due_ns;
        connection->due_ns += connection->period_ns;
        sink(0, connection);
        speak(connection, due_ns);
    }
}

int main(int count, char **values) {
    struct epoll_event found[256];
    struct rlimit files;
    int listener = listen_on(count > 1 ? atoi(values[1]) : 0);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        struct timespec wait;
        int ready = epoll_pwait2(poller, found, 256, find_wait(&wait), NULL);
        for (int place = 0; place < ready; place++) {
            Connection *connection = found[place].data.ptr;
            if (!connection) accept_all(listener);
            else if (found[place].events & (EPOLLERR | EPOLLHUP)) forget(connection);
            else if (found[place].events & EPOLLOUT) flush_rest(connection);
            else receive(connection);
        }
        speak_in_turn();
    }
}
