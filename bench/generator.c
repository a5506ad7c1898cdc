/* The load generator: many WebSocket connections in one thread. `generator.py` builds and runs it.
 *
 * Each connection upgrades, says the opening texts, and is ready. When all are ready, each says the
 * text `--go`: all together for a window, or else `--at-once` at a time until all have ended. Then the generator reads, checks that the ids count from 1 without a gap, and notes
 * how late each event is. An event is a text frame that says `due=NS at=NS`: when it should have
 * been said, and when it was said, by CLOCK_MONOTONIC, which all processes of a machine share.
 * `{n}` in any text becomes the number of the connection. The result is one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
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

enum { STAGES_MAX = 8, TEXT_MAX = 2000, REQUEST_MAX = 4096, READ_MAX = 1 << 21, ID_WITHIN = 60 };
enum { CLOSE = 8, PING = 9, PONG = 10, TEXT = 1 };
#define PATIENCE_S 60.0
#define STOP_S 15.0
#define NS_PER_S 1000000000LL

typedef struct {
    int fd;
    enum { CONNECTING, UPGRADING, OPEN, GONE } state;
    int is_ready, has_ended;
    uint8_t *rest; /* the beginning of a frame whose end has not come yet */
    size_t rest_len, rest_cap;
    uint64_t seq, events;
    int64_t began_ns, ended_ns;
} Connection;

static int port, pid, at_once = 64, stages[STAGES_MAX], stage_count, total;
static const char *path = "/ws", *opening = "", *ready_mark = "", *go = "", *end_mark = "", *stop = "";
static double settle_s, window_s;
static char **tokens;
static int token_count;

static Connection *connections;
static int poller, started, ready, heard, ended, is_window;
static uint64_t events, gaps, refused, closed, errors, window_events;

typedef struct {
    int64_t *values;
    size_t count, cap;
} Times;
static Times since_due, since_said;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static double clock_s(clockid_t clock) {
    struct timespec t = {0, 0};
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* CPU seconds of the server, all threads and those that have ended included. It is what
 * /proc/PID/stat says, in nanoseconds instead of clock ticks of 10 ms. */
static double server_s(void) {
    clockid_t clock;
    return clock_getcpuclockid(pid, &clock) == 0 ? clock_s(clock) : 0;
}

static double own_s(void) { return clock_s(CLOCK_PROCESS_CPUTIME_ID); }

/* CPU seconds of the whole machine, what a hypervisor took away included. */
static double machine_s(void) {
    double part[8] = {0}, sum = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (!file) return 0;
    if (fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", part, part + 1, part + 2, part + 3, part + 4,
               part + 5, part + 6, part + 7) == 8)
        sum = part[0] + part[1] + part[2] + part[5] + part[6] + part[7]; /* neither idle nor iowait */
    fclose(file);
    return sum / sysconf(_SC_CLK_TCK);
}

static double resident_kib(void) {
    char name[64];
    long size, resident = 0;
    snprintf(name, sizeof name, "/proc/%d/statm", pid);
    FILE *file = fopen(name, "r");
    if (!file) return 0;
    if (fscanf(file, "%ld %ld", &size, &resident) != 2) resident = 0;
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024.0);
}

static void note(Times *times, int64_t value) {
    if (times->count == times->cap) {
        times->cap = times->cap ? times->cap * 2 : 1 << 16;
        times->values = realloc(times->values, times->cap * sizeof *times->values);
        if (!times->values) exit(1);
    }
    times->values[times->count++] = value;
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Milliseconds that `part` of all times are at or below; the times must be in order. */
static double quantile_ms(const Times *times, double part) {
    if (!times->count) return 0;
    size_t place = (size_t)(times->count * part);
    return times->values[place < times->count ? place : times->count - 1] / 1e6;
}

static void tell(const char *name, Times *times) {
    if (times->count) qsort(times->values, times->count, sizeof *times->values, compare);
    printf(", \"%s\": {\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}", name, quantile_ms(times, .5),
           quantile_ms(times, .99), quantile_ms(times, 1));
}

/* Send one frame, masked with zeros: a legal mask, which changes nothing. */
static void send_frame(Connection *connection, int opcode, const char *text, size_t size) {
    uint8_t frame[TEXT_MAX + 16];
    size_t head = 2;
    frame[0] = 0x80 | opcode;
    if (size < 126) {
        frame[1] = 0x80 | size;
    } else {
        frame[1] = 0x80 | 126;
        frame[2] = size >> 8;
        frame[3] = size & 0xff;
        head = 4;
    }
    memset(frame + head, 0, 4);
    memcpy(frame + head + 4, text, size);
    if (write(connection->fd, frame, head + 4 + size) != (ssize_t)(head + 4 + size)) errors++;
}

/* Send each line of a text as a frame. */
static void say(Connection *connection, const char *text) {
    char said[TEXT_MAX];
    size_t size = 0;
    for (;; text++) {
        if (*text == '\n' || !*text || size > TEXT_MAX - 32) {
            if (size) send_frame(connection, TEXT, said, size);
            size = 0;
            if (!*text) return;
        } else if (!strncmp(text, "{n}", 3)) {
            size += sprintf(said + size, "%d", (int)(connection - connections));
            text += 2;
        } else {
            said[size++] = *text;
        }
    }
}

static void watch(Connection *connection, int operation, uint32_t wanted) {
    struct epoll_event event = {.events = wanted, .data.ptr = connection};
    epoll_ctl(poller, operation, connection->fd, &event);
}

static void begin(Connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct linger hang_up = {1, 0}; /* without it thousands of ports would wait in TIME_WAIT */
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connection->fd < 0) {
        perror("socket");
        exit(1);
    }
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &hang_up, sizeof hang_up);
    connection->began_ns = now_ns();
    if (connect(connection->fd, (void *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        perror("connect");
        exit(1);
    }
    watch(connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    started++;
}

static void upgrade(Connection *connection) {
    char request[REQUEST_MAX];
    const char *token = token_count ? tokens[(connection - connections) % token_count] : NULL;
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n%s%s%s\r\n",
                        path, port, token ? "Authorization: Bearer " : "", token ? token : "",
                        token ? "\r\n" : "");
    if (write(connection->fd, request, size) != size) errors++;
    connection->state = UPGRADING;
    watch(connection, EPOLL_CTL_MOD, EPOLLIN);
}

static void leave(Connection *connection) {
    epoll_ctl(poller, EPOLL_CTL_DEL, connection->fd, NULL);
    close(connection->fd);
    connection->state = GONE;
    closed++;
}

static void become_ready(Connection *connection) {
    connection->is_ready = 1;
    ready++;
}

static int64_t read_number(const uint8_t **at, const uint8_t *end) {
    int64_t value = 0;
    while (*at < end && **at >= '0' && **at <= '9') value = value * 10 + (*(*at)++ - '0');
    return value;
}

/* Take a text frame that is no entry of a log. */
static void take_control(Connection *connection, const uint8_t *text, size_t size) {
    if (!connection->is_ready && memmem(text, size, ready_mark, strlen(ready_mark))) {
        become_ready(connection);
    } else if (memmem(text, size, "\"error\"", 7) || memmem(text, size, "RUN_ERROR", 9)) {
        if (refused++ < 3) fprintf(stderr, "refused: %.*s\n", (int)(size < 300 ? size : 300), text);
    }
}

static void take_event(Connection *connection, const uint8_t *at, const uint8_t *end, int64_t time_ns) {
    at += strlen("due=");
    int64_t due_ns = read_number(&at, end);
    at += strlen(" at=");
    int64_t said_ns = read_number(&at, end);
    events++;
    if (!connection->events++) heard++;
    if (!is_window) return;
    window_events++;
    note(&since_due, time_ns - due_ns);
    note(&since_said, time_ns - said_ns);
}

static void take_text(Connection *connection, const uint8_t *text, size_t size, int64_t time_ns) {
    const uint8_t *end = text + size;
    const uint8_t *id = memmem(text, size < ID_WITHIN ? size : ID_WITHIN, "\"id\":\"", 6);
    if (!id || !(id = memchr(id, '-', end - id))) {
        take_control(connection, text, size);
        return;
    }
    id++;
    uint64_t seq = read_number(&id, end);
    if (seq != connection->seq + 1) gaps++;
    connection->seq = seq;
    const uint8_t *event = memmem(id, end - id, "due=", 4);
    if (event) {
        take_event(connection, event, end, time_ns);
    } else if (*end_mark && !connection->has_ended && memmem(id, end - id, end_mark, strlen(end_mark))) {
        connection->has_ended = 1;
        connection->ended_ns = time_ns;
        ended++;
    }
}

static void take_frame(Connection *connection, int opcode, const uint8_t *payload, size_t size, int64_t time_ns) {
    if (opcode == TEXT) take_text(connection, payload, size, time_ns);
    if (opcode == PING) send_frame(connection, PONG, (const char *)payload, size < 125 ? size : 125);
}

/* The whole frames of a buffer; returns the place behind the last of them. */
static uint8_t *take_frames(Connection *connection, uint8_t *at, uint8_t *end, int64_t time_ns) {
    while (end - at >= 2) {
        uint64_t size = at[1] & 127;
        int head = size == 126 ? 4 : size == 127 ? 10 : 2;
        if (end - at < head) break;
        if (head > 2) size = 0;
        for (int place = 2; place < head; place++) size = size << 8 | at[place];
        if ((uint64_t)(end - at - head) < size) break;
        take_frame(connection, at[0] & 15, at + head, size, time_ns);
        at += head + size;
    }
    return at;
}

/* The answer to the upgrade; returns the place behind it, or NULL while it isn't complete. */
static uint8_t *take_answer(Connection *connection, uint8_t *at, uint8_t *end) {
    uint8_t *close_of_head = memmem(at, end - at, "\r\n\r\n", 4);
    if (!close_of_head) return NULL;
    if (memcmp(at, "HTTP/1.1 101", 12)) {
        if (refused++ < 3) fprintf(stderr, "no upgrade: %.*s\n", (int)(end - at < 300 ? end - at : 300), at);
        return NULL;
    }
    connection->state = OPEN;
    say(connection, opening);
    if (!*ready_mark) become_ready(connection);
    return close_of_head + 4;
}

static void keep_rest(Connection *connection, const uint8_t *at, const uint8_t *end) {
    connection->rest_len = end - at;
    if (connection->rest_cap < connection->rest_len) {
        connection->rest_cap = connection->rest_len * 2;
        connection->rest = realloc(connection->rest, connection->rest_cap);
        if (!connection->rest) exit(1);
    }
    if (connection->rest_len) memcpy(connection->rest, at, connection->rest_len);
}

static void receive(Connection *connection) {
    static uint8_t buffer[READ_MAX];
    if (connection->rest_len) memcpy(buffer, connection->rest, connection->rest_len);
    ssize_t got = read(connection->fd, buffer + connection->rest_len, sizeof buffer - connection->rest_len);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        leave(connection);
        return;
    }
    int64_t time_ns = now_ns();
    uint8_t *at = buffer, *end = buffer + connection->rest_len + got;
    if (connection->state == UPGRADING) {
        uint8_t *behind = take_answer(connection, at, end);
        if (behind) at = behind;
    }
    if (connection->state == OPEN) at = take_frames(connection, at, end, time_ns);
    keep_rest(connection, at, end);
}

static void handle(Connection *connection, uint32_t what) {
    if (connection->state != CONNECTING) {
        receive(connection);
    } else if (what & (EPOLLERR | EPOLLHUP)) {
        errors++;
        leave(connection);
    } else if (what & EPOLLOUT) {
        upgrade(connection);
    }
}

static int aim, asked;
static int is_ready(void) { return ready >= aim; }
static int is_heard(void) { return heard >= aim; }
static int is_ended(void) { return ended + (int)refused >= aim; }
static int never(void) { return 0; }

/* Ask on the next connections, so that at most `at_once` answers are under way. */
static void ask_in_turn(void) {
    for (; asked < total && asked - ended - (int)refused < at_once; asked++) say(&connections[asked], go);
}

/* Handle what comes until `is_done`, until all connections are lost, or for so many seconds. */
static void run(double seconds, int (*is_done)(void)) {
    struct epoll_event found[512];
    int64_t until_ns = now_ns() + (int64_t)(seconds * NS_PER_S);
    for (int64_t time_ns; !is_done() && closed < (uint64_t)aim && (time_ns = now_ns()) < until_ns;) {
        while (started < aim && started - ready - (int)closed < at_once) begin(&connections[started]);
        if (asked) ask_in_turn();
        int64_t wait_ms = (until_ns - time_ns) / 1000000 + 1;
        int count = epoll_wait(poller, found, 512, wait_ms > 50 ? 50 : (int)wait_ms);
        for (int place = 0; place < count; place++) handle(found[place].data.ptr, found[place].events);
    }
}

static void say_to_all(const char *text) {
    for (int place = 0; place < total; place++)
        if (connections[place].state == OPEN) say(&connections[place], text);
}

/* Open all connections, one stage after the other, and tell what the server took for each. */
static void open_all(void) {
    printf("{\"resident_kib\": %.0f, \"stages\": [", resident_kib());
    for (int stage = 0; stage < stage_count; stage++) {
        double cpu_s = server_s();
        int64_t began_ns = now_ns();
        aim = stages[stage];
        run(PATIENCE_S, is_ready);
        double took_s = (now_ns() - began_ns) / 1e9;
        cpu_s = server_s() - cpu_s;
        if (!*go && !*end_mark) run(settle_s, never); /* idle: its memory is what is measured */
        printf("%s{\"ready\": %d, \"took_s\": %.4f, \"cpu_s\": %.6f, \"resident_kib\": %.0f}", stage ? ", " : "",
               ready, took_s, cpu_s, resident_kib());
    }
    printf("]");
}

static void measure_window(void) {
    say_to_all(go);
    run(PATIENCE_S, is_heard);
    run(settle_s, never);
    double cpu_s = server_s(), used_s = own_s(), busy_s = machine_s();
    int64_t began_ns = now_ns();
    is_window = 1;
    run(window_s, never);
    is_window = 0;
    double took_s = (now_ns() - began_ns) / 1e9;
    cpu_s = server_s() - cpu_s, used_s = own_s() - used_s, busy_s = machine_s() - busy_s;
    printf(", \"window\": {\"events\": %lu, \"took_s\": %.4f, \"cpu_s\": %.6f, \"own_s\": %.4f, \"others_s\": %.4f",
           window_events, took_s, cpu_s, used_s, busy_s - cpu_s - used_s);
    tell("since_due", &since_due);
    tell("since_said", &since_said);
    printf("}");
    if (*stop) {
        say_to_all(stop);
        run(STOP_S, is_ended);
    }
}

/* Wait until every connection has ended, and tell how long each took since `began_ns`. */
static void measure_ends(int64_t began_ns, double cpu_s) {
    Times took = {0};
    if (*go) ask_in_turn();
    run(PATIENCE_S, is_ended);
    printf(", \"ends\": {\"count\": %d, \"took_s\": %.4f, \"cpu_s\": %.6f", ended, (now_ns() - began_ns) / 1e9,
           server_s() - cpu_s);
    for (int place = 0; place < total; place++)
        if (connections[place].has_ended) note(&took, connections[place].ended_ns - began_ns);
    tell("each", &took);
    printf("}");
}

static void read_tokens(const char *name) {
    char line[REQUEST_MAX];
    FILE *file = fopen(name, "r");
    if (!file) {
        perror(name);
        exit(1);
    }
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        tokens = realloc(tokens, (token_count + 1) * sizeof *tokens);
        tokens[token_count++] = strdup(line);
    }
    fclose(file);
}

static void read_stages(char *text) {
    for (char *part = strtok(text, ","); part && stage_count < STAGES_MAX; part = strtok(NULL, ","))
        total = stages[stage_count++] = atoi(part);
}

static const struct option OPTIONS[] = {
    {"port", 1, 0, 'P'},   {"pid", 1, 0, 'p'},    {"path", 1, 0, 'u'}, {"connections", 1, 0, 'n'},
    {"at-once", 1, 0, 'c'}, {"tokens", 1, 0, 'T'}, {"open", 1, 0, 'o'}, {"ready", 1, 0, 'r'},
    {"go", 1, 0, 'g'},     {"end", 1, 0, 'e'},    {"stop", 1, 0, 's'}, {"settle", 1, 0, 'w'},
    {"window", 1, 0, 'd'}, {0, 0, 0, 0},
};

static void read_options(int count, char **values) {
    for (int option; (option = getopt_long(count, values, "", OPTIONS, NULL)) != -1;) switch (option) {
            case 'P': port = atoi(optarg); break;
            case 'p': pid = atoi(optarg); break;
            case 'u': path = optarg; break;
            case 'n': read_stages(optarg); break;
            case 'c': at_once = atoi(optarg); break;
            case 'T': read_tokens(optarg); break;
            case 'o': opening = optarg; break;
            case 'r': ready_mark = optarg; break;
            case 'g': go = optarg; break;
            case 'e': end_mark = optarg; break;
            case 's': stop = optarg; break;
            case 'w': settle_s = atof(optarg); break;
            case 'd': window_s = atof(optarg); break;
            default: exit(2);
        }
}

int main(int count, char **values) {
    struct rlimit files;
    read_options(count, values);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = calloc(total ? total : 1, sizeof *connections);
    poller = epoll_create1(0);
    int64_t began_ns = now_ns();
    double cpu_s = server_s();
    open_all();
    if (*go) { /* without it the ends are counted from the first connection on */
        began_ns = now_ns(), cpu_s = server_s();
    }
    if (window_s > 0) {
        measure_window();
    } else if (*end_mark) {
        measure_ends(began_ns, cpu_s);
    }
    printf(", \"ready\": %d, \"events\": %lu, \"ended\": %d, \"gaps\": %lu, \"refused\": %lu, \"closed\": %lu, "
           "\"errors\": %lu}\n",
           ready, events, ended, gaps, refused, closed, errors);
    return 0;
}
