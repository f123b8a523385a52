{{/* All of these take a dictionary: root, the chart's own scope; program, "producer" or "consumer"; values, those of the program. */}}

{{- define "sync.program" -}}git-partition-sync-{{ .program }}{{- end -}}

{{/* For a release called git-partition-sync, the program's own name, which the documents use. */}}
{{- define "sync.name" -}}{{ printf "%s-%s" (.root.Release.Name | trunc 40 | trimSuffix "-") .program }}{{- end -}}

{{- define "sync.selector" -}}
app.kubernetes.io/name: {{ include "sync.program" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .program }}
{{- end -}}

{{- define "sync.labels" -}}
{{ include "sync.selector" . }}
app.kubernetes.io/part-of: git-partition-sync
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "sync.image" -}}
{{- $image := .root.Values.image -}}
{{- if contains "OWNER" $image.repository }}{{ fail "image.repository: put the organisation whose image you use in place of OWNER" }}{{ end -}}
{{- if $image.digest }}{{ printf "%s@%s" $image.repository $image.digest }}{{ else }}{{ printf "%s:%s" $image.repository ($image.tag | default .root.Chart.AppVersion) }}{{ end -}}
{{- end -}}

{{- define "sync.secret" -}}{{ .values.existingSecret | default (include "sync.name" .) }}{{- end -}}

{{- define "sync.identitySecret" -}}{{ .values.identity.existingSecret | default (printf "%s-identity" (include "sync.name" .)) }}{{- end -}}

{{/* A value of a setting as text: Helm reads a number without quotes as a float, which would print as 1e+06. */}}
{{- define "sync.text" -}}{{ if kindIs "float64" . }}{{ toJson . }}{{ else }}{{ . }}{{ end }}{{- end -}}

{{/* What cannot work, said before anything is applied. */}}
{{- define "sync.check" -}}
{{- $path := .program -}}
{{- with .values -}}
{{- if and (not .existingSecret) (not .secrets.GITLAB_TOKEN) (not .settings.GITLAB_TOKEN_FILE) }}{{ fail (printf "%s: name a secret with GITLAB_TOKEN in existingSecret, or give secrets.GITLAB_TOKEN" $path) }}{{ end -}}
{{- if and .existingSecret .secrets }}{{ fail (printf "%s: existingSecret and secrets: keep one of the two" $path) }}{{ end -}}
{{- if and .ca.configMap .ca.secret }}{{ fail (printf "%s.ca: configMap and secret: keep one of the two" $path) }}{{ end -}}
{{- if and (gt (int .shards) 1) .workdir.existingClaim }}{{ fail (printf "%s.workdir.existingClaim: several shards cannot share a volume" $path) }}{{ end -}}
{{- if and (gt (int .shards) 1) .settings.INSTANCE_SHARD }}{{ fail (printf "%s.settings.INSTANCE_SHARD: with several shards it is the pod's name" $path) }}{{ end -}}
{{- end -}}
{{- if eq .program "producer" -}}
{{- with .values -}}
{{- $lists := 0 -}}
{{- if .settings.GRAPHQL_SERVER }}{{ $lists = add1 $lists }}{{ end -}}
{{- if .settings.TARGETS_FILE }}{{ $lists = add1 $lists }}{{ end -}}
{{- if .targets }}{{ $lists = add1 $lists }}{{ end -}}
{{- if ne (int $lists) 1 }}{{ fail "producer: give the target list in one way: targets, settings.GRAPHQL_SERVER or settings.TARGETS_FILE" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if eq .program "consumer" -}}
{{- if and .values.networkPolicy.enabled (not .values.networkPolicy.egress) }}{{ fail "consumer.networkPolicy.egress: name the addresses of the bucket and of the far GitLab" }}{{ end -}}
{{- if eq (empty .values.identity.existingSecret) (empty .values.identity.text) }}{{ fail "consumer.identity: give existingSecret or text, one of the two" }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "sync.pod" -}}
metadata:
  labels:
    {{- include "sync.labels" . | nindent 4 }}
    {{- with .values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # Variables are read at the start, so a change of theirs starts the pod again.
    checksum/settings: {{ printf "%s %s" (toJson .values.settings) (toJson .values.secrets) | sha256sum }}
    {{- with .values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "sync.name" . }}
  automountServiceAccountToken: false
  # For a Service called metrics-server, Kubernetes would set METRICS_SERVER_PORT=tcp://…
  enableServiceLinks: false
  # What is under way is aborted within ten seconds.
  terminationGracePeriodSeconds: 30
  securityContext:
    runAsNonRoot: true
    seccompProfile:
      type: RuntimeDefault
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ include "sync.program" . }}
      image: {{ include "sync.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      {{- if eq .program "consumer" }}
      # Both programs are in this image, and it starts the producer if no command is given.
      command: ["/usr/local/bin/git-partition-sync-consumer"]
      {{- end }}
      envFrom:
        - configMapRef:
            name: {{ include "sync.name" . }}
        - secretRef:
            name: {{ include "sync.secret" . }}
      env:
        - name: WORKDIR
          value: /working
        - name: METRICS_SERVER_PORT
          value: "9090"
        {{- if gt (int .values.shards) 1 }}
        # The number of replicas. The pod's name says which of them it is.
        - name: SHARD_COUNT
          value: {{ .values.shards | quote }}
        # The pod's name as the label shard_id: alerts name the shard in trouble, and no shard hides another.
        - name: INSTANCE_SHARD
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- end }}
        {{- if or .values.ca.configMap .values.ca.secret }}
        - name: SSL_CERT_FILE
          value: /etc/git-partition-sync/ca/ca.crt
        {{- end }}
        {{- if .values.targets }}
        # Read at each pass: a changed list needs no restart.
        - name: TARGETS_FILE
          value: /etc/git-partition-sync/targets/targets.json
        {{- end }}
        {{- if eq .program "consumer" }}
        # A file can hold several identities, which a change of keys needs. It is not among the process's variables.
        - name: PRIVATE_KEY_FILE
          value: /etc/git-partition-sync/identity/{{ .values.identity.key }}
        {{- end }}
      ports:
        - name: http
          containerPort: 9090
      # It listens before it starts to work.
      startupProbe:
        httpGet:
          path: /healthz
          port: http
        periodSeconds: 2
        failureThreshold: 30
      # Fails after STALL_TIMEOUT without progress.
      livenessProbe:
        httpGet:
          path: /healthz
          port: http
        periodSeconds: 30
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
        periodSeconds: 15
        timeoutSeconds: 5
      resources: {{- toYaml .values.resources | nindent 8 }}
      # No user id: OpenShift assigns one; elsewhere the image's own is used, 65532.
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        runAsNonRoot: true
        capabilities:
          drop: ["ALL"]
      volumeMounts:
        - name: working
          mountPath: /working
        {{- if or .values.ca.configMap .values.ca.secret }}
        - name: ca
          mountPath: /etc/git-partition-sync/ca
          readOnly: true
        {{- end }}
        {{- if .values.targets }}
        # A folder: a file mounted with subPath never changes.
        - name: targets
          mountPath: /etc/git-partition-sync/targets
          readOnly: true
        {{- end }}
        {{- if eq .program "consumer" }}
        - name: identity
          mountPath: /etc/git-partition-sync/identity
          readOnly: true
        {{- end }}
        {{- with .values.volumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    # Plaintext; without a claim it is removed with the pod.
    - name: working
      {{- if .values.workdir.existingClaim }}
      persistentVolumeClaim:
        claimName: {{ .values.workdir.existingClaim }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ .values.workdir.sizeLimit }}
        {{- with .values.workdir.medium }}
        medium: {{ . }}
        {{- end }}
      {{- end }}
    {{- with .values.ca.configMap }}
    - name: ca
      configMap:
        name: {{ . }}
    {{- end }}
    {{- with .values.ca.secret }}
    - name: ca
      secret:
        secretName: {{ . }}
    {{- end }}
    {{- if .values.targets }}
    - name: targets
      configMap:
        name: {{ include "sync.name" . }}-targets
    {{- end }}
    {{- if eq .program "consumer" }}
    - name: identity
      secret:
        secretName: {{ include "sync.identitySecret" . }}
    {{- end }}
    {{- with .values.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}
