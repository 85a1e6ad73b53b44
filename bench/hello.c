/* Load and backend of mongo-connect: what a driver does at the start of each connection, and a server that answers it.
 *
 *   hello serve QUERY_REPLY MSG_REPLY PORT...          answers every OP_QUERY and OP_MSG with the bytes of a file
 *   hello load PORT SECONDS CLIENTS SOURCES REQUEST    connect, send the file REQUEST, read one reply, close; again
 *
 * It is C so that on a small machine the load does not cost more than what is measured. Both sides are one thread
 * around one epoll. `load` binds its clients to 127.0.0.2, .3 and so on, SOURCES of them, and prints one JSON line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 16, MESSAGE_MOST = 65536, TURN = 256, DESCRIPTORS = 20000, OP_QUERY = 2004, OP_MSG = 2013 };
enum { ERRORS_MOST = 1000 };

typedef struct {
    size_t size;
    char bytes[MESSAGE_MOST];
} Message;

typedef struct {
    int fd;
    int sent;
    size_t got;
    double began;
    char head[HEADER];
} Client;

static int poller;

static void die(const char *what) {
    fprintf(stderr, "hello: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void load_file(const char *path, Message *message) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    message->size = fread(message->bytes, 1, MESSAGE_MOST, file);
    fclose(file);
    if (message->size < HEADER) { errno = EINVAL; die(path); }
}

static struct sockaddr_in loopback(uint32_t host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl((127u << 24) + host);
    return address;
}

static void watch(int fd, uint32_t events, uint64_t tag) {
    struct epoll_event event = {.events = events, .data.u64 = tag};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

/* -- serve --------------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t got;
    char bytes[4096];
} Request;

static Request *requests[DESCRIPTORS];
static char listening[DESCRIPTORS];

static void listen_on(int port) {
    struct sockaddr_in address = loopback(1, port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) die("listen");
    listening[fd] = 1;
    watch(fd, EPOLLIN, (uint64_t)fd);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= DESCRIPTORS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        requests[fd] = calloc(1, sizeof(Request));
        if (!requests[fd]) die("calloc");
        watch(fd, EPOLLIN, (uint64_t)fd);
    }
}

static void hang_up(int fd) {
    free(requests[fd]);
    requests[fd] = NULL;
    close(fd);
}

/* Answers the first message in the buffer. Returns its size, 0 if it is not whole yet, -1 to hang up. */
static long answer(int fd, const Request *request, Message *query, Message *msg) {
    int32_t length, opcode;
    if (request->got < HEADER) return 0;
    memcpy(&length, request->bytes, 4);
    memcpy(&opcode, request->bytes + 12, 4);
    if (length < HEADER || length > (int32_t)sizeof request->bytes) return -1;
    if (opcode != OP_QUERY && opcode != OP_MSG) return -1;
    if ((size_t)length > request->got) return 0;
    Message *reply = opcode == OP_QUERY ? query : msg;
    memcpy(reply->bytes + 8, request->bytes + 4, 4); /* responseTo = the request's id */
    return send(fd, reply->bytes, reply->size, MSG_NOSIGNAL) == (ssize_t)reply->size ? length : -1;
}

static void converse(int fd, Message *query, Message *msg) {
    Request *request = requests[fd];
    ssize_t got = recv(fd, request->bytes + request->got, sizeof request->bytes - request->got, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { hang_up(fd); return; }
    request->got += (size_t)got;
    long used;
    while ((used = answer(fd, request, query, msg)) > 0) {
        request->got -= (size_t)used;
        memmove(request->bytes, request->bytes + used, request->got);
    }
    if (used < 0) hang_up(fd);
}

_Noreturn static void serve(int count, char **words) {
    static Message query, msg;
    struct epoll_event events[TURN];
    load_file(words[0], &query);
    load_file(words[1], &msg);
    for (int i = 2; i < count; i++) listen_on(atoi(words[i]));
    for (;;) {
        int ready = epoll_wait(poller, events, TURN, -1);
        for (int i = 0; i < ready; i++) {
            int fd = (int)events[i].data.u64;
            if (listening[fd]) accept_all(fd);
            else converse(fd, &query, &msg);
        }
    }
}

/* -- load ---------------------------------------------------------------------------------------------------------- */

static Client *clients;
static Message request;
static int target, sources, running = 1;
static long errors;
static float *samples;
static size_t taken, room;
static double last_done;

static void begin(size_t index) {
    Client *client = &clients[index];
    struct sockaddr_in from = loopback(2 + (uint32_t)(index % (size_t)sources), 0), to = loopback(1, target);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    *client = (Client){.fd = fd, .began = now()};
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    watch(fd, EPOLLOUT, index);
}

static void end(size_t index, int failed) {
    close(clients[index].fd);
    clients[index].fd = -1;
    if (failed && ++errors > ERRORS_MOST) running = 0;
    if (running) begin(index);
}

static void count_one(const Client *client) {
    if (taken == room) {
        room = room ? room * 2 : 65536;
        samples = realloc(samples, room * sizeof *samples);
        if (!samples) die("realloc");
    }
    last_done = now();
    samples[taken++] = (float)(last_done - client->began);
}

static void send_request(size_t index) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = index};
    Client *client = &clients[index];
    if (send(client->fd, request.bytes, request.size, MSG_NOSIGNAL) != (ssize_t)request.size) { end(index, 1); return; }
    client->sent = 1;
    epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &event);
}

static void read_reply(size_t index) {
    static char bytes[MESSAGE_MOST];
    Client *client = &clients[index];
    ssize_t got = recv(client->fd, bytes, sizeof bytes, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { end(index, 1); return; }
    if (client->got < HEADER) {
        size_t missing = HEADER - client->got;
        memcpy(client->head + client->got, bytes, (size_t)got < missing ? (size_t)got : missing);
    }
    client->got += (size_t)got;
    int32_t length, id, response_to;
    memcpy(&length, client->head, 4);
    if (client->got < HEADER || client->got < (size_t)length) return;
    memcpy(&response_to, client->head + 8, 4);
    memcpy(&id, request.bytes + 4, 4);
    int wrong = client->got != (size_t)length || response_to != id;
    if (!wrong) count_one(client);
    end(index, wrong);
}

static int by_size(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static double percentile(double share) {
    return taken ? 1000.0 * samples[(size_t)((double)(taken - 1) * share)] : 0.0;
}

static void turn(double until) {
    struct epoll_event events[TURN];
    int ready = epoll_wait(poller, events, TURN, 100);
    if (now() >= until) running = 0;
    for (int i = 0; i < ready && running; i++) {
        size_t index = events[i].data.u64;
        if (clients[index].sent) read_reply(index);
        else send_request(index);
    }
}

static int load(char **words) {
    target = atoi(words[0]);
    size_t count = (size_t)atoi(words[2]);
    sources = atoi(words[3]);
    load_file(words[4], &request);
    clients = calloc(count, sizeof(Client));
    if (!clients || sources < 1) die("clients");
    double began = now();
    for (size_t i = 0; i < count; i++) begin(i);
    while (running) turn(began + atof(words[1]));
    qsort(samples, taken, sizeof *samples, by_size);
    printf("{\"operations\": %zu, \"seconds\": %.6f, \"errors\": %ld, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n", taken,
           taken ? last_done - began : 0.0, errors, percentile(0.50), percentile(0.99));
    return 0;
}

int main(int count, char **words) {
    poller = epoll_create1(0);
    if (count > 4 && !strcmp(words[1], "serve")) serve(count - 2, words + 2);
    if (count == 7 && !strcmp(words[1], "load")) return load(words + 2);
    fprintf(stderr, "usage: hello serve QUERY_REPLY MSG_REPLY PORT... | hello load PORT SECONDS CLIENTS SOURCES REQUEST\n");
    return 2;
}
